"""Child processes, each with one resource.

`placement` has the settings. `proxy` is a child as its parent sees it."""
