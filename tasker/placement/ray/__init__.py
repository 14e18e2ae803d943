"""Actors on a Ray cluster, each with one resource.

`placement` has the settings. `proxy` is an actor as its manager sees it."""
