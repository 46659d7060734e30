"""The encoder of an original checkpoint: its config, its colours and its weights, which lie in the checkpoint or elsewhere.

The original's config only names its tower, by a hub name or a folder. Weights inside the checkpoint count (they may have been
trained); config and colours come from what is named, or from the `encoder` that the user gives. Without network the well-known
towers are still known: the encoder plugins describe them without weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..assemble.parts import build_part
from ..core.checkpoint import clean_config, fetch_checkpoint
from ..errors import CheckpointError, LlavaKitError, PluginError
from ..recipe.schema import Part
from .tensors import FileTensors, Tensors, below, weight_files

# The originals' towers, by our encoders; each knows its own configs and refuses the others'.
KINDS = ("clip", "siglip")


@dataclass(frozen=True)
class Tower:
    """kind: our encoder; config: as transformers writes it, all layers counted; tensors by canonical names.

    `inside`: the weights lie in the checkpoint.
    """

    kind: str
    config: Mapping[str, Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tensors: Tensors
    inside: bool
    note: str

    @property
    def depth(self) -> int:
        return int(self.config["num_hidden_layers"])


def find_tower(
    folder: Path, named: str | None, given: str | None, inside: Tensors, *, config: Mapping[str, Any] | None = None
) -> Tower:
    """The tower of the checkpoint in `folder`, whose config says `named`; `given` is the user's word and goes first.

    `config`: the tower's own, where the checkpoint holds it; then nothing is looked up.

    Raises `CheckpointError` when nothing says what the tower is, or its weights are nowhere to be had.
    """
    if config is not None and given is None and inside.shapes():
        return Tower(*_look_up(folder, str(folder), config), inside, True, "encoder: config and weights in the checkpoint")
    place = given or _near(folder, named)
    if place is None:
        raise CheckpointError(
            f"{folder}: nothing says which encoder it has (mm_vision_tower); name it with the option `encoder`"
        )
    facts = _look_up(folder, place)
    if inside.shapes():
        return Tower(*facts, inside, True, f"encoder: the weights in the checkpoint, the config of {place}")
    return Tower(*facts, weights_of(folder, place), False, f"encoder: {place}, unchanged")


def weights_of(folder: Path, place: str) -> Tensors:
    """The tensors of a tower that lies elsewhere, by canonical names; a checkpoint of both towers gives its vision tower."""
    try:
        home = fetch_checkpoint(place)
    except PluginError as error:
        raise CheckpointError(
            f"{folder}: holds no weights of its encoder, and {place!r} could not be had ({error}); give a folder that holds it "
            "with the option `encoder`"
        ) from error
    files = weight_files(home)
    if not files:
        raise CheckpointError(f"{home}: found no weights of an encoder; expected model.safetensors or pytorch_model.bin")
    tensors = FileTensors(files)
    if any(name.startswith("vision_model.") for name in tensors.shapes()):
        return below(tensors, "vision_model.")
    return tensors


def _near(folder: Path, named: str | None) -> str | None:
    """What the config names, looked for in the checkpoint's folder first."""
    if named is not None and not Path(named).is_absolute() and (folder / named).is_dir():
        return str(folder / named)
    return named


def _look_up(
    folder: Path, place: str, given: Mapping[str, Any] | None = None
) -> tuple[str, Mapping[str, Any], tuple[float, float, float], tuple[float, float, float]]:
    """Kind, config and colours of a tower by its folder or name, or by its config; no weights are read or downloaded."""
    refusals = []
    source = {"checkpoint": place} if given is None else {"config": dict(given)}
    for kind in KINDS:
        part = Part.model_validate({"type": kind, **source, "feature_layer": -1})
        try:
            with torch.device("meta"):
                encoder = build_part("encoder", part, weights=False)
        except LlavaKitError as error:
            refusals.append(str(error))
            continue
        published = encoder.published()
        assert published is not None
        # Through JSON, as it is kept with a model: keys of mappings become text.
        config = clean_config(json.loads(json.dumps(published.config)), place)
        return kind, config, encoder.spec.mean, encoder.spec.std
    if not Path(place).expanduser().is_dir():
        raise CheckpointError(
            f"{folder}: its encoder {place!r} is no folder here, not in the hub's cache, and none of those whose architecture "
            "is known without network; give a folder that holds it with the option `encoder`"
        )
    # A refusal that speaks of another kind's model_type says nothing about what is wrong with the right kind.
    raise CheckpointError(next((text for text in refusals if "for type" not in text), refusals[0]))
