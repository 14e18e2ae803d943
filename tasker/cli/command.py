"""`main`: from the command line to an exit status."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from tasker.cli.arguments import Options, UsageError, parse
from tasker.cli.display import Display, say
from tasker.cli.files import Files
from tasker.cli.job import Job
from tasker.cli.loading import add_current_folder, exception_type, function, resource_factory
from tasker.cli.mapping import Run

__all__ = ["main"]

WRONG_USAGE, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, the process's own by default, and return the exit status; `tasker map --help` lists them.

    Meant for the main thread, where it handles SIGINT and SIGTERM; blocks until all is done. Adds the current folder to
    `sys.path`, and raises nothing but what the interpreter itself dies of."""
    try:
        return _map(parse(arguments))
    except UsageError as error:
        say(str(error))
        return WRONG_USAGE
    except SystemExit as ending:  # --help and --version
        return int(ending.code or 0)
    except KeyboardInterrupt:
        return INTERRUPTED


def _map(options: Options) -> int:
    output = sys.stdout
    # what the user's code prints must not come between the results
    with contextlib.redirect_stdout(sys.stderr):
        job = _load(options)
        with Files(options, output) as files:
            return Run(job, files, Display(files)).run()


def _load(options: Options) -> Job:
    add_current_folder()
    fn, wants_context = function(options.function, with_resource=options.resource is not None)
    return Job(
        options=options,
        function=fn,
        wants_context=wants_context,
        factory=None if options.resource is None else resource_factory(options.resource),
        unhealthy=tuple(map(exception_type, options.unhealthy)),
    )
