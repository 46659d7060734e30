"""The waist: recipe in, parts out; and the way of an assembled model to disk and back.

Imports everything below it (core, registry, recipe, image, splice, data, model, chat); whatever runs a model stands on it.
"""

from ..verbs import make_callable

make_callable(__name__, "parts")
