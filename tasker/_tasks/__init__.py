"""What is submitted: a task with its future, its context, and the thread that waits for it. Knows no worker."""
