"""What child processes and actors share: how a manager and a remote resource talk."""
