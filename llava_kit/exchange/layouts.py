"""How other programs call the tensors of a LLaVA model: their names into ours and back.

Our canonical names (see `foreign.Foreign`): encoder and language model as transformers calls them inside the part's own class,
connector `0.weight`, `0.bias`, `1.weight`, ... in the order of its linear maps, and one tensor `newline`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ..recipe.schema import COMPONENTS

NEWLINE = "newline"


class Place(NamedTuple):
    """A tensor's component (`encoder`, `connector`, `language_model` or `newline`) and its canonical name there."""

    component: str
    name: str


def from_transformers(name: str) -> Place | None:
    """Where a tensor of a transformers LLaVA folder belongs; None for a name of another kind.

    Both layouts are known: `language_model.model.*` with `vision_tower.*` at the top (all that is on the hub, and what
    transformers 5 still writes), and `model.language_model.*` with everything below `model.` (its modules since 4.52).
    """
    name = name.removeprefix("model.") if name.startswith(("model.vision_tower", "model.multi_modal", "model.image_")) else name
    if name == "image_newline":
        return Place(NEWLINE, NEWLINE)
    if name.startswith("vision_tower."):
        return Place("encoder", name.removeprefix("vision_tower.").removeprefix("vision_model."))
    found = re.fullmatch(r"multi_modal_projector\.linear_([12])\.(weight|bias)", name)
    if found:
        return Place("connector", f"{int(found[1]) - 1}.{found[2]}")
    if name.startswith("model.language_model."):
        return Place("language_model", "model." + name.removeprefix("model.language_model."))
    if name.startswith("language_model."):
        return Place("language_model", name.removeprefix("language_model."))
    return Place("language_model", name) if name.startswith("lm_head.") else None


def to_transformers(place: Place) -> str:
    """The name in a transformers LLaVA folder, in the layout that every release and every engine reads."""
    if place.component == NEWLINE:
        return "image_newline"
    if place.component == "encoder":
        return f"vision_tower.vision_model.{place.name}"
    if place.component == "language_model":
        return f"language_model.{place.name}"
    number, kind = place.name.split(".")
    return f"multi_modal_projector.linear_{int(number) + 1}.{kind}"


def from_original(name: str) -> Place | None:
    """Where a tensor of the original repositories' folders belongs; None for a name of another kind.

    `mm_projector.weight` is the one map of a linear connector, `mm_projector.0`, `.2`, ... are those of an MLP (its activations
    have the odd numbers). `mm_projector.bin` of a first stage and `non_lora_trainables.bin` carry prefixes of wrappers.
    """
    name = name.removeprefix("base_model.model.")
    if re.fullmatch(r"((model|transformer)\.)*image_newline", name):
        return Place(NEWLINE, NEWLINE)
    found = re.fullmatch(r"(?:(?:model|transformer)\.)*mm_projector\.(?:(\d+)\.)?(weight|bias)", name)
    if found:
        return Place("connector", f"{int(found[1] or 0) // 2}.{found[2]}")
    found = re.fullmatch(r"(?:(?:model|transformer)\.)*vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?(.+)", name)
    if found:
        return Place("encoder", found[1])
    return Place("language_model", name) if "mm_projector" not in name else None


def to_original(place: Place, num_maps: int) -> str:
    """The name in a folder of the original repositories, whose connector has `num_maps` linear maps."""
    if place.component == NEWLINE:
        return "model.image_newline"
    if place.component == "encoder":
        return f"model.vision_tower.vision_tower.vision_model.{place.name}"
    if place.component == "language_model":
        return place.name
    number, kind = place.name.split(".")
    return f"model.mm_projector.{kind}" if num_maps == 1 else f"model.mm_projector.{2 * int(number)}.{kind}"


def by_component(names: Iterable[str], place_of) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The names sorted into components: component -> canonical name -> the name in the file; and those that belong nowhere.

    `place_of` is `from_transformers` or `from_original`.
    """
    sorted_names: dict[str, dict[str, str]] = {component: {} for component in (*COMPONENTS, NEWLINE)}
    unknown = []
    for name in names:
        place = place_of(name)
        if place is None:
            unknown.append(name)
        else:
            sorted_names[place.component][place.name] = name
    return sorted_names, unknown
