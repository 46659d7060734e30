"""Questions to a finished model, its answers judged, and the baselines beside them. Imports assemble, chat and below."""

from ..verbs import make_callable

make_callable(__name__, "run")
