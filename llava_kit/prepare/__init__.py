"""The steps by which a recipe's data are made, each gone on with where it stopped; `llava_kit.prepare(recipe)`."""

from ..verbs import make_callable

make_callable(__name__, "run")
