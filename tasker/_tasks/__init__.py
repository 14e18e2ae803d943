"""What is submitted: a task with its future and context, and the waits for it.

Knows no worker."""
