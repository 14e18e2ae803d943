"""The pool: the queue, the workers, the thread that looks after them, the engine.

Knows no manager, stream or executor.
"""
