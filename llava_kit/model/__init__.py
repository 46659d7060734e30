"""The model that obeys the plan: the four parts put together, the loss over targets, and decoding.

Imports core only; it knows no recipe and no plugin.
"""
