"""The command line `tasker`: `tasker map MODULE:FUNCTION` is xargs for Python callables with resources.

Who does what: `command` is the entry and turns what happens into an exit status, `arguments` reads the options,
`loading` finds the user's functions, `files` opens what is read and written, `streams` keeps it from the programs that
functions start, `records` says what a line is on its way in and out, `earlier` which lines are done already, `job` what
is done with a line, `mapping` runs the lines, `dry` shows what that would run, `display` writes to standard error.
"""

from tasker.cli.command import main

__all__ = ["main"]
