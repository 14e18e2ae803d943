"""Thumbnails: urgent pictures go first, and lost work is done again.

    python examples/image_processing.py        (needs Pillow: pip install Pillow)

A worker's resource is a *workshop*: a watermark that was loaded once, and a folder of
its own for half-written files. Two things can go wrong, and they are not the same:

- The *picture* is bad. Its caller gets the error, and the workshop goes on with the
  next picture.
- The *workshop* is broken: here, the folders of temporary files are cleared.
  `check_health` returns `False` for such an error. The worker destroys the workshop and
  builds another one. The picture goes back to the front of its lane and is made again.
  Its caller notices nothing.
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

# The largest thumbnail.
SIZE_PX = (160, 120)


class Workshop:
    """The tools that make thumbnails.

    They are costly to set up, and two threads must not use them at once.
    """

    def __init__(self, output: Path, opened: threading.Event) -> None:
        opened.wait()
        self.output = output
        # This folder is in that of the results, hence on the same disk. Only there does
        # os.replace() put a whole file in its place.
        self.scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=output))
        self.watermark = Image.new("RGBA", (40, 12), (255, 255, 255, 96))
        print("a workshop opens")

    def close(self) -> None:
        print("a workshop closes")
        # A broken workshop has lost its folder, so errors are ignored.
        shutil.rmtree(self.scratch, ignore_errors=True)


def thumbnail(workshop: Workshop, name: str, data: bytes) -> tuple[int, int]:
    """The task: write a thumbnail to a file, whole or not at all, and return its size.

    It may be repeated, because it replaces the file.
    """
    with Image.open(io.BytesIO(data)) as picture:
        small = picture.convert("RGB")
    small.thumbnail(SIZE_PX)
    small.paste(workshop.watermark, (4, 4), workshop.watermark)

    half_written = workshop.scratch / name
    small.save(half_written, "JPEG")
    os.replace(half_written, workshop.output / name)
    print("  made", name)

    return small.size


def is_healthy(error: Exception) -> bool:
    """Return whether the workshop is fit for use after this error.

    `unhealthy_on(OSError)` would be shorter and wrong: Pillow's error for a bad picture
    is an OSError too.
    """
    return isinstance(error, UnidentifiedImageError) or not isinstance(error, OSError)


def picture(width: int, height: int) -> bytes:
    """Return a picture as a customer sends it: here, a part of the Mandelbrot set."""
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
            # A picture gets four workshops, no more: it might be the picture that
            # breaks them.
            max_retries=3,
            # With one worker this program prints the same every time. Without that
            # need, take one worker for each processor: Pillow lets other threads run
            # while it decodes, scales and encodes.
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
            # Earlier, the first pictures would be made before the urgent one is there.
            opened.set()
            # Wait until all pictures are made.
            manager.join()
            print("  the urgent one measures", urgent.result())

            print("a bad picture")
            bad = manager.queue_task_async(thumbnail, "bad.jpg", b"not a picture")
            error = type(bad.exception()).__name__
            print("  the caller gets", error, "after", bad.attempts, "attempt")

            print("a broken workshop")
            for scratch in output.glob("scratch-*"):
                shutil.rmtree(scratch)
            rescued = manager.queue_task_async(thumbnail, "portrait.jpg", picture(300, 400))
            print("  the caller gets", rescued.result(), "after", rescued.attempts, "attempts")

            figures = manager.metrics()

        made = sorted(path.name for path in output.iterdir())
        print(
            f"{figures.total_tasks_completed} completed, {figures.total_tasks_failed} failed,"
            f" {figures.total_tasks_retried} retried; {made}"
        )


if __name__ == "__main__":
    main()
