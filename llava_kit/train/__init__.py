"""Stages, optimizers, the loop, checkpoints, exact resume. `run.py` alone puts a run together; the rest takes what it is given.

May import everything below it (assemble, chat, data, recipe, ...); evaluation and reports come after it and read its files.
"""

from ..verbs import make_callable

make_callable(__name__, "run")
