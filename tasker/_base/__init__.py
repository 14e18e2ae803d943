"""The lowest floor, which knows no thread.

It holds what is known of callables, records, and objects found by identity.
"""
