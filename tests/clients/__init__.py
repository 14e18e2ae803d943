"""Other people's libraries, servers and programs with pools of tasker's.

Each module needs the package it is about (extra `clients`), and is skipped where that is not installed:
`pytest.importorskip` says so. What cannot be undone in this process (a library that patches the interpreter) is done
in a program that the test runs.
"""
