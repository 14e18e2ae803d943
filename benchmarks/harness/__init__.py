"""What the measurements share: rivals, rounds, rows, their history, and how it is shown."""
