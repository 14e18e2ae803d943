"""Who runs it: the queue, the workers, and the thread that looks after them. Knows no manager, stream or executor."""
