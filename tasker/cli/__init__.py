"""The command line `tasker`.

`tasker map MODULE:FUNCTION` is xargs for Python callables with resources. The modules:

- `command`: the entry; turns what happens into an exit status
- `arguments`: reads the options
- `loading`: finds the user's functions
- `files`: opens what is read and written
- `streams`: keeps these files from the programs that functions start
- `records`: a line as it is read and as it is written
- `earlier`: which lines are done already
- `job`: what is done with a line
- `mapping`: runs the lines
- `dry`: shows what `mapping` would run
- `display`: writes to standard error
"""

from tasker.cli.command import main

__all__ = ["main"]
