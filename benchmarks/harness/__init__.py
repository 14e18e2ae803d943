"""What the measurements share: rivals, rounds, rows, and the history of rows."""
