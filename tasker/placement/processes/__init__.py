"""Child processes: each has one resource. `placement` has the settings, `proxy` is a child as its parent sees it."""
