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
    """Run the command line, the process's own by default, and return the exit status; `tasker map --help` lists them.

    Meant for the main thread, where it handles SIGINT and SIGTERM; blocks until all is done. Adds the current folder to
    `sys.path`, and raises nothing but what the interpreter itself dies of. While the user's code runs, standard input
    is empty and standard output is standard error, also to programs that it starts; if the command line is the
    process's own that stays so, as functions that were given up and exit handlers may go on to print."""
    with ExitStack() as undo:
        try:
            return _map(parse(arguments), undo)
        except UsageError as error:
            say(str(error))
            return WRONG_USAGE
        except SystemExit as ending:  # --help and --version
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

    with Files(
        options, output
    ) as files:  # opened while the streams are to be seen: a path may be /dev/stdin
        hide_standard_streams(nowhere, output, undo)
        return show(job, files) if options.dry_run else _run(job, files)


def _load(options: Options) -> Job:
    add_current_folder()
    return Job(options=options, work=Work(options.function, options.resource, options.unhealthy))


def _run(job: Job, files: Files) -> int:
    try:
        run = Run(job, files, Display(files))
    except ConfigError as error:  # there is no Python for child processes
        raise UsageError(f"--placement {job.options.placement}: {error}") from None
    return run.run()
