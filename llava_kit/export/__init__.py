"""A model leaves the house: for transformers and what builds on it, for the original repositories, as a package; with proof.

Imports `exchange` (names and tensors of the formats) and below. `llava_kit.export(source, folder)` is `run.export`.
"""

from ..verbs import make_callable

make_callable(__name__, "run")
