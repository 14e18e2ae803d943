"""How a thread sleeps, wakes, is timed and hands work to another. Knows no task."""
