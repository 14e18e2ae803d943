"""Thumbnails: urgent pictures first, bad pictures told from broken workshops, lost work done again.

    python examples/image_processing.py        (needs Pillow: pip install Pillow)

A worker's resource is a *workshop*: a watermark that was loaded once, and a folder of its own for half-written files.
Two things can go wrong, and they are not the same:

- The *picture* is bad. That is the caller's business: he gets the error, and the workshop goes on with the next one.
- The *workshop* is broken: here, somebody clears the folders of temporary files. `check_health` says so by returning
  `False` for such an error. The worker destroys the workshop and builds another one; the picture goes back to the front
  of its lane and is made again, and its caller never hears of it.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

from tasker import Config, TaskManager

try:
    from PIL import Image, UnidentifiedImageError
except ImportError:
    print("this example needs Pillow: pip install Pillow", file=sys.stderr)
    raise SystemExit(2) from None

SIZE = (160, 120)  # pixels, the largest thumbnail


class Workshop:
    """What it takes to make thumbnails: costly to set up, and not to be used by two threads at once."""

    def __init__(self, output: Path, opened: threading.Event) -> None:
        opened.wait()
        self.output = output
        # In the folder of the results, hence on the same disk: only there os.replace() puts a whole file in its place.
        self.scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=output))
        self.watermark = Image.new("RGBA", (40, 12), (255, 255, 255, 96))
        print("a workshop opens")

    def close(self) -> None:
        print("a workshop closes")
        shutil.rmtree(self.scratch, ignore_errors=True)  # a broken workshop has lost it


def thumbnail(workshop: Workshop, name: str, data: bytes) -> tuple[int, int]:
    """The task: write a thumbnail to a file, whole or not at all; return its size. May be repeated: it replaces."""
    with Image.open(io.BytesIO(data)) as picture:
        small = picture.convert("RGB")
    small.thumbnail(SIZE)
    small.paste(workshop.watermark, (4, 4), workshop.watermark)
    half_written = workshop.scratch / name
    small.save(half_written, "JPEG")
    os.replace(half_written, workshop.output / name)
    print("  made", name)
    return small.size


def is_healthy(error: Exception) -> bool:
    """Say whether the workshop is fit for use after this error.

    `unhealthy_on(OSError)` would be shorter and wrong: Pillow's error for a bad picture is an OSError too."""
    return isinstance(error, UnidentifiedImageError) or not isinstance(error, OSError)


def picture(width: int, height: int) -> bytes:
    """A picture as a customer sends it: here, a part of the Mandelbrot set."""
    file = io.BytesIO()
    Image.effect_mandelbrot((width, height), (-2.2, -1.2, 1.0, 1.2), 50).save(file, "PNG")
    return file.getvalue()


def main() -> None:
    opened = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        config = Config(
            on_create=lambda: Workshop(output, opened),
            on_destroy=Workshop.close,
            check_health=is_healthy,
            max_retries=3,  # a picture gets four workshops, no more: it might be the picture that breaks them
            # One worker makes what this program prints the same every time. Without that need, take one a processor:
            # Pillow lets other threads run while it decodes, scales and encodes.
            worker_count=1,
            max_worker_count=1,
        )
        with TaskManager(config) as manager:
            print("urgent pictures first")
            for name in ("beach.jpg", "dinner.jpg", "sunset.jpg"):
                manager.queue_task_async(thumbnail, name, picture(400, 300))
            urgent = manager.queue_task_with_priority_async(
                thumbnail, "passport.jpg", picture(300, 400)
            )
            opened.set()  # not earlier, or the first pictures would be made before the urgent one is there
            manager.join()  # until all is made
            print("  the urgent one measures", urgent.result())

            print("a bad picture")
            bad = manager.queue_task_async(thumbnail, "bad.jpg", b"not a picture")
            print(
                "  the caller gets",
                type(bad.exception()).__name__,
                "after",
                bad.attempts,
                "attempt",
            )

            print("a broken workshop")
            for scratch in output.glob("scratch-*"):
                shutil.rmtree(scratch)
            rescued = manager.queue_task_async(thumbnail, "portrait.jpg", picture(300, 400))
            print("  the caller gets", rescued.result(), "after", rescued.attempts, "attempts")

            figures = manager.metrics()
        print(
            f"{figures.total_tasks_completed} completed, {figures.total_tasks_failed} failed,",
            end=" ",
        )
        print(
            f"{figures.total_tasks_retried} retried;",
            sorted(path.name for path in output.iterdir()),
        )


if __name__ == "__main__":
    main()
