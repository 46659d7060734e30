"""One part from its block of a recipe, built by its plugin; no torch, so that tools for data start in a second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.source import DataSource
from ..data.mixture import MixtureSource, Share
from ..errors import DataError, LlavaKitError, PluginError
from ..recipe.blocks import Part
from ..recipe.load import parse_part
from ..recipe.mixture import MIXTURE
from ..recipe.parts import parse_mixture
from ..registry.manager import default_registry


def build_part(kind: str, part: Part, *, weights: bool = True, **neighbours: Any) -> Any:
    """The part that a recipe block names, built by its plugin."""
    if kind == "source" and part.type == MIXTURE:
        return build_source(part)
    entry, options = parse_part(part, kind, default_registry())
    if kind in ("encoder", "language_model"):
        neighbours["weights"] = weights
    try:
        return entry.build(options, **neighbours)
    except LlavaKitError:
        raise
    except Exception as error:
        raise PluginError(
            f"{kind} {part.type!r} ({entry.distribution} {entry.version}) could not be built: {type(error).__name__}: {error}"
        ) from error


def build_source(part: Part) -> DataSource:
    """The data source that a recipe block names, or the mixture of several that it describes."""
    if part.type != MIXTURE:
        return build_part("source", part)
    mixture = parse_mixture(part)
    sources = _built({name: ingredient.source for name, ingredient in mixture.of.items()})
    shares = [
        Share(name, ingredient.rule, len(sources[name]), ingredient.count(len(sources[name])), ingredient.repeat)
        for name, ingredient in mixture.of.items()
    ]
    return MixtureSource(sources, shares, mixture.seed)


def _built(parts: Mapping[str, Part]) -> dict[str, DataSource]:
    """The sources by name. Raises `DataError` for all that cannot be read, so that nobody mends ten paths in ten goes."""
    sources, wrong = {}, {}
    for name, part in parts.items():
        try:
            sources[name] = build_source(part)
        except DataError as error:
            wrong[name] = error
    if len(wrong) == 1:
        raise next(iter(wrong.values()))
    if wrong:
        raise DataError("\n".join(f"{name}: {error}" for name, error in wrong.items()))
    return sources
