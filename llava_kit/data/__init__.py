"""From a source's samples to batches: text to token ids and flags, pictures to tiles, samples to rows, rows to steps.

Imports `core`, `image`, `splice` and `errors`; never `model`, `recipe` or `registry`.
"""
