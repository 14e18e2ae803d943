"""What everything stands on and that knows no thread: what a callable is, records, objects found by identity."""
