"""`main`: from the command line to an exit status."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from tasker.cli.arguments import Options, UsageError, parse
from tasker.cli.display import Display, say
from tasker.cli.dry import show
from tasker.cli.files import Files
from tasker.cli.job import Job, Work
from tasker.cli.loading import add_current_folder
from tasker.cli.mapping import Run
from tasker.cli.streams import hide_standard_streams, open_nowhere
from tasker.errors import ConfigError

__all__ = ["main"]

WRONG_USAGE, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default the process's own, and return the exit status.

    `tasker map --help` lists the statuses. Blocks until all is done. Meant for the main
    thread, where it handles SIGINT and SIGTERM. Adds the current folder to `sys.path`.
    Raises nothing but errors that end the interpreter itself.

    While the user's code runs, standard input is empty, and standard output leads to
    standard error, also for programs that the code starts. If the command line is the
    process's own, this stays so: functions that were given up and exit handlers may go
    on to print."""
    with ExitStack() as undo:
        try:
            return _map(parse(arguments), undo)
        except UsageError as error:
            say(str(error))
            return WRONG_USAGE
        except SystemExit as ending:
            # --help or --version.
            return int(ending.code or 0)
        except KeyboardInterrupt:
            return INTERRUPTED
        finally:
            if arguments is None:
                undo.pop_all()


def _map(options: Options, undo: ExitStack) -> int:
    output = sys.stdout
    undo.enter_context(contextlib.redirect_stdout(sys.stderr))
    nowhere = open_nowhere(undo)

    with ExitStack() as loaded:
        hide_standard_streams(nowhere, output, loaded)
        job = _load(options)

    # Opened while the standard streams are not hidden: a path may be /dev/stdin.
    with Files(options, output) as files:
        hide_standard_streams(nowhere, output, undo)
        return show(job, files) if options.dry_run else _run(job, files)


def _load(options: Options) -> Job:
    add_current_folder()
    return Job(options=options, work=Work(options.function, options.resource, options.unhealthy))


def _run(job: Job, files: Files) -> int:
    try:
        run = Run(job, files, Display(files))
    except ConfigError as error:
        # There is no Python for child processes.
        raise UsageError(f"--placement {job.options.placement}: {error}") from None

    return run.run()
