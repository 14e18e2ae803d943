"""Measures tasker against other pools of threads and of processes.

`python -m benchmarks --help` says how.
"""
