"""The parts of an original checkpoint, wherever its tensors were found, as a described checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.checkpoint import CONFIG_FILE
from ..errors import CheckpointError, shorten
from ..recipe.schema import COMPONENTS, Model, Part
from .adapter import Adapter, merged
from .experts import stacked
from .foreign import Foreign, LoadOptions, stored_type
from .layouts import NEWLINE, Place, by_component, from_original
from .original_config import OriginalConfig, connector_part
from .original_tower import Tower, find_tower
from .template_choice import added_tokens, choose_template
from .tensors import JoinedTensors, RenamedTensors, Tensors

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
MARKS = ("<im_start>", "<im_end>")
PAD_OF_V0 = "[PAD]"


@dataclass(frozen=True)
class Parts:
    """What was gathered: tensors of each component by canonical names, `newline` among them; where the tokenizer lies.

    `adapter`: to be merged into them, and into the tower's wherever that lies. `template`: the conversation template, where the
    kind of folder decides it.
    """

    layout: str
    tensors: Mapping[str, Tensors]
    text: Mapping[str, Any]
    tokenizer: Path
    notes: tuple[str, ...] = ()
    stage_1: bool = False
    adapter: Adapter | None = None
    template: Mapping[str, Any] | None = None


def described(folder: Path, said: OriginalConfig, parts: Parts, options: LoadOptions) -> Foreign:
    """The checkpoint with what was gathered, its tower found and its template chosen."""
    tower = find_tower(folder, said.tower, options.encoder, parts.tensors["encoder"], config=said.tower_config)
    tensors = {**{name: parts.tensors[name] for name in COMPONENTS}, "encoder": tower.tensors}
    if parts.adapter is not None:
        tensors = merged(tensors, parts.adapter)
    newline = NEWLINE in parts.tensors[NEWLINE]
    tiling = said.tiling(squashed=tower.kind == "siglip", newline=newline)
    notes = [*parts.notes, tower.note]
    if said.is_silent:
        notes.append(f"pictures are cut as {tiling.mode}: the config says nothing (image_aspect_ratio), as LLaVA v1's")
    if newline and not tiling.options().has_newlines:
        notes.append(f"image_newline is left out: pictures are cut as {tiling.mode}, which has no lines to end")
        newline = False
    dtypes = {name: options.dtype or stored_type(tensors[name]) for name in COMPONENTS}
    template, reason = _template(said, parts, options)
    block = Model(
        encoder=_encoder(folder, said, tower, dtypes["encoder"]),
        connector=said.connector or _connector_of(parts.tensors["connector"]),
        language_model=Part.model_validate(
            {
                "type": "causal_lm",
                "config": parts.text,
                "tokenizer": str(parts.tokenizer),
                "dtype": dtypes["language_model"],
            }
        ),
        template=template,
        tiling=tiling,
    )
    return Foreign(
        layout=parts.layout,
        folder=folder,
        block=block,
        tensors=tensors,
        tokenizer=parts.tokenizer,
        newline=(parts.tensors[NEWLINE], NEWLINE) if newline else None,
        notes=(*notes, reason),
    )


def gather(stored: Tensors, place_of: Callable[[str], Place | None] = from_original) -> dict[str, Tensors]:
    """The tensors of each component and the newline, by canonical names.

    Raises `CheckpointError` naming the tensors of a connector that is no chain of linear maps.
    """
    names, unknown = by_component(stored.shapes(), place_of)
    if unknown:
        raise CheckpointError(
            f"{stored.where}: found tensors of a connector that is no chain of linear maps: "
            + shorten([repr(name) for name in unknown])
        )
    tensors: dict[str, Tensors] = {component: RenamedTensors(stored, found) for component, found in names.items()}
    return {**tensors, "language_model": stacked(tensors["language_model"])}


def joined(base: Mapping[str, Tensors], over: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """The tensors of both, component by component; where both have one, that of `over` counts."""
    return {name: JoinedTensors([base[name], over[name]]) for name in base}


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer's own file lies in the folder (its config alone is none)."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _encoder(folder: Path, said: OriginalConfig, tower: Tower, dtype: str) -> Part:
    layers = said.layers(tower.depth)
    stored = _count_layers(tower.tensors)
    if tower.kind == "siglip" and (stored < tower.depth or not tower.inside):
        # The original deletes SigLIP's last layer and takes what is then the last output, whatever the config says
        # (siglip_encoder.py); what was saved from it lacks that layer. A checkpoint with all layers is another program's.
        layers = min(tower.depth - 1, stored)
    options: dict[str, Any] = {
        "config": dict(tower.config),
        "mean": list(tower.mean),
        "std": list(tower.std),
        "feature_layer": layers if isinstance(layers, int) else list(layers),
        "dtype": dtype,
    }
    if said.keep_cls and tower.kind != "siglip":
        if said.aspect.startswith("anyres"):
            raise CheckpointError(
                f"{folder / CONFIG_FILE}: mm_vision_select_feature: found {said.feature!r} with {said.aspect}: a class token "
                "has no place in a picture of several tiles"
            )
        options["keep_cls"] = True
    if said.first_is_dropped and tower.kind == "siglip":
        options["without_first"] = True
    return Part.model_validate({"type": tower.kind, **options})


def _count_layers(tensors: Tensors) -> int:
    numbers = [int(found[1]) for name in tensors.shapes() if (found := re.match(r"encoder\.layers\.(\d+)\.", name))]
    return max(numbers, default=-1) + 1


def _connector_of(tensors: Tensors) -> Part:
    """The connector that the tensors are: as many linear maps as there are weights."""
    maps = [name for name in tensors.shapes() if name.endswith(".weight")]
    part = connector_part("linear" if len(maps) == 1 else f"mlp{len(maps)}x_gelu") if maps else connector_part("identity")
    assert part is not None
    return part


def _template(said: OriginalConfig, parts: Parts, options: LoadOptions) -> tuple[Part, str]:
    """The conversation template, and in words how it was decided; marks around pictures are its option."""
    if parts.template is not None and options.template is None:
        template = Part.model_validate(parts.template)
        return template, f"template {template.type}: {parts.layout} speaks it; another is chosen with the option `template`"
    tokens = added_tokens(parts.tokenizer)
    wanted, reason = options.template, None
    if wanted is None and parts.stage_1:
        wanted, reason = "plain", "a connector after stage 1, which saw pictures and captions alone"
    elif wanted is None and said.marks and PAD_OF_V0 in tokens:
        wanted, reason = "v0", f"marks around pictures, and {PAD_OF_V0} in the tokenizer, which only training with v0 added"
    template, told = choose_template(parts.tokenizer, str(parts.text["model_type"]), wanted=wanted, tokenisation="chunks")
    if reason is not None:
        told = f"template {wanted}: {reason}; another is chosen with the option `template`"
    if said.marks and template.type != "plain":
        lost = [mark for mark in MARKS if mark not in tokens]
        if lost:
            raise CheckpointError(
                f"{parts.tokenizer}: mm_use_im_start_end says that pictures stand between {' and '.join(MARKS)}, but its "
                f"tokenizer has no {' and no '.join(lost)}; the tokenizer that was saved with the checkpoint is needed"
            )
        template = Part.model_validate({"type": template.type, **template.options, "around_picture": list(MARKS)})
    return template, told
