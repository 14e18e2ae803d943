"""What child processes and actors have in common: how a manager and a resource elsewhere speak with each other."""
