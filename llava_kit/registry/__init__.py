"""Who is there: plugins are found by their entry points, asked what they offer, and kept apart from one another's faults.

`manager.default_registry()` is what the rest of the house calls; nothing here imports torch, numpy or transformers.
"""
