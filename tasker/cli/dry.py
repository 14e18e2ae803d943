"""`show`: what `--dry-run` does in place of a run.

It reads the input, writes the calls, and makes none.
"""

from __future__ import annotations

from tasker.cli.display import say
from tasker.cli.files import Files
from tasker.cli.job import Job
from tasker.cli.loading import one_line
from tasker.cli.mapping import DONE, READER_GONE, SOME_FAILED
from tasker.cli.records import UnreadableError

__all__ = ["show"]


def show(job: Job, files: Files) -> int:
    """Write a line for each call that a run would make, and return the exit status.

    Blocks while it reads and writes."""
    calls = done = unreadable = 0
    try:
        for _, record, is_done in files.records():
            if is_done:
                done += 1
                continue

            try:
                call = job.call(record.item())
            except UnreadableError as error:
                unreadable += 1
                say(f"line {record.line}: {one_line(str(error))}")
                continue

            calls += 1
            files.output.write(f"{call}\n".encode("utf-8", "backslashreplace"))
            files.flush()
    except BrokenPipeError:
        return READER_GONE
    except OSError as error:
        say(f"reading or writing failed: {error}")
        return SOME_FAILED
    finally:
        files.input.close()

    say(f"dry run: {calls} to do, {done} done already, {unreadable} unreadable")
    return SOME_FAILED if unreadable else DONE
