"""Stages, optimizers, the loop, checkpoints and exact resume. `run.py` alone puts a run together; all else takes what it is given.

May import everything below it (assemble, chat, data, recipe, ...); evaluation and reports come after it and read its files.
"""
