"""Folders of the original repositories, described: whole checkpoints, connectors alone, LoRA adapters, delta weights.

What a folder is follows from the files in it and from the keys of its config, never from its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.checkpoint import CONFIG_FILE, fetch_checkpoint, read_json
from ..errors import CheckpointError, PluginError, shorten
from ..recipe.schema import COMPONENTS, Model, Part
from .adapter import Adapter, is_adapter, merged, read_adapter
from .delta import SummedTensors, looks_like_difference
from .foreign import DTYPES, Foreign, LoadOptions
from .layouts import NEWLINE, by_component, from_original
from .original_config import (
    OriginalConfig,
    connector_part,
    differences,
    language_model_type,
    read_original_config,
    text_config,
)
from .original_tower import Tower, find_tower
from .template_choice import choose_template
from .tensors import FileTensors, JoinedTensors, RenamedTensors, Tensors, weight_files

CONNECTOR_STEM, TRAINED_STEM = "mm_projector", "non_lora_trainables"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
MARKS = ("<im_start>", "<im_end>")
PAD_OF_V0 = "[PAD]"

# What is assumed of a connector without a config: LLaVA's recipes take the layer before the last.
STAGE_1 = {"mm_vision_select_layer": -2}


@dataclass(frozen=True)
class Parts:
    """What was gathered: tensors of each component by canonical names, `newline` among them; where the tokenizer lies.

    `adapter`: to be merged into them, and into the tower's wherever that lies.
    """

    layout: str
    tensors: Mapping[str, Tensors]
    text: Mapping[str, Any]
    tokenizer: Path
    notes: tuple[str, ...] = ()
    stage_1: bool = False
    adapter: Adapter | None = None


def is_original(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the folder is one of the original repositories'."""
    said = any(key.startswith("mm_") for key in config)
    return said or bool(weight_files(folder, CONNECTOR_STEM) or weight_files(folder, TRAINED_STEM))


def read(folder: Path, config: dict[str, Any], options: LoadOptions) -> Foreign:
    """The folder's parts and where their tensors lie.

    Raises `CheckpointError` for configs and files that are missing, damaged, or cannot be honoured.
    """
    said = read_original_config(config or STAGE_1, str(folder / CONFIG_FILE))
    if is_adapter(folder) or weight_files(folder, TRAINED_STEM):
        parts = _with_adapter(folder, config, said, options)
    elif weight_files(folder):
        parts = _whole(folder, said, options)
    elif weight_files(folder, CONNECTOR_STEM):
        parts = _connector_alone(folder, config, said, options)
    else:
        raise CheckpointError(
            f"{folder}: found no weights; expected model.safetensors or pytorch_model.bin (or their shards with an index), "
            f"{CONNECTOR_STEM}.bin for a connector alone, or an adapter with {TRAINED_STEM}.bin"
        )
    return _described(folder, said, parts, options)


def _described(folder: Path, said: OriginalConfig, parts: Parts, options: LoadOptions) -> Foreign:
    tower = find_tower(folder, said.tower, options.encoder, parts.tensors["encoder"])
    tensors = {**{name: parts.tensors[name] for name in COMPONENTS}, "encoder": tower.tensors}
    if parts.adapter is not None:
        tensors = merged(tensors, parts.adapter)
    newline = NEWLINE in parts.tensors[NEWLINE]
    tiling = said.tiling(squashed=tower.kind == "siglip", newline=newline)
    notes = [*parts.notes, tower.note]
    if newline and not tiling.options().has_newlines:
        notes.append(f"image_newline is left out: pictures are cut as {tiling.mode}, which has no lines to end")
        newline = False
    dtypes = {name: options.dtype or _stored_type(tensors[name]) for name in COMPONENTS}
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


def _whole(folder: Path, said: OriginalConfig, options: LoadOptions) -> Parts:
    """A whole checkpoint; with a `base`, the difference to it."""
    tensors = gather(FileTensors(weight_files(folder)))
    text = _needed(folder, said)
    if options.base is None:
        if looks_like_difference(tensors["language_model"]):
            raise CheckpointError(
                f"{folder}: holds delta weights (its final norm is nearly zero): the difference to a language model, which "
                "must be given with the option `base`"
            )
        return Parts("a checkpoint of the original repositories", tensors, text, folder)
    base, home = _base(folder, options.base, text)
    summed = SummedTensors(tensors["language_model"], base["language_model"])
    tokenizer = folder if _has_tokenizer(folder) else home
    layout = "delta weights of the original repositories"
    return Parts(layout, {**tensors, "language_model": summed}, text, tokenizer, (f"base: {home}",))


def _connector_alone(folder: Path, config: Mapping[str, Any], said: OriginalConfig, options: LoadOptions) -> Parts:
    if options.base is None:
        raise CheckpointError(
            f"{folder}: holds a connector alone ({CONNECTOR_STEM}); give the language model it was trained for with the option "
            f"`base`{_hint(config)}"
        )
    base, home = _base(folder, options.base, said.text)
    stored = gather(FileTensors(weight_files(folder, CONNECTOR_STEM)))
    text = said.text or text_config(_config_of(home), str(home / CONFIG_FILE))
    notes = [f"base: {home}", "a connector after stage 1: it has learnt captions, not to answer questions"]
    if not config:
        notes.append(
            f"found no {CONFIG_FILE}: LLaVA's stage 1 is assumed (pictures cropped, the tower's layer before the last)"
        )
    layout = "a connector of the original repositories"
    return Parts(layout, _joined(base, stored), text, home, tuple(notes), stage_1=True)


def _with_adapter(folder: Path, config: Mapping[str, Any], said: OriginalConfig, options: LoadOptions) -> Parts:
    adapter = read_adapter(folder) if is_adapter(folder) else None
    trained = weight_files(folder, TRAINED_STEM)
    wrong = []
    if adapter is None:
        wrong.append(f"found {trained[0].name}, but no adapter_config.json: the adapter that was trained with it is missing")
    if not trained:
        wrong.append(f"found an adapter, but no {TRAINED_STEM}.bin, which holds the connector that was trained with it")
    if options.base is None:
        known = adapter.config if adapter is not None else {}
        name = known.get("base_model_name_or_path")
        hint = f"; adapter_config.json names {name!r}" if name else _hint(config)
        wrong.append(f"the model that the adapter was trained on must be given with the option `base`{hint}")
    if wrong or adapter is None or options.base is None:
        raise CheckpointError(f"{folder}: cannot be loaded: {'; '.join(wrong)}")
    text = _needed(folder, said)
    base, home = _base(folder, options.base, text)
    tensors = _joined(base, gather(FileTensors(trained)))
    tokenizer = folder if _has_tokenizer(folder) else home
    layout = "a LoRA adapter of the original repositories, merged"
    return Parts(layout, tensors, text, tokenizer, (f"base: {home}",), adapter=adapter)


def gather(stored: Tensors) -> dict[str, Tensors]:
    """The tensors of each component and the newline, by canonical names.

    Raises `CheckpointError` naming the tensors of a connector that is no chain of linear maps.
    """
    names, unknown = by_component(stored.shapes(), from_original)
    if unknown:
        raise CheckpointError(
            f"{stored.where}: found tensors of a connector that is no chain of linear maps: "
            + shorten([repr(name) for name in unknown])
        )
    return {component: RenamedTensors(stored, found) for component, found in names.items()}


def _joined(base: Mapping[str, Tensors], over: Mapping[str, Tensors]) -> dict[str, Tensors]:
    return {name: JoinedTensors([base[name], over[name]]) for name in base}


def _base(folder: Path, name: str, text: Mapping[str, Any] | None) -> tuple[dict[str, Tensors], Path]:
    """The base's tensors and its folder: a language model, or a whole checkpoint of the original.

    Raises `CheckpointError` when it is another architecture than `text`, or cannot be had.
    """
    try:
        home = fetch_checkpoint(name)
    except PluginError as error:
        raise CheckpointError(f"base: {error}") from error
    config = _config_of(home)
    if "text_config" in config:
        raise CheckpointError(
            f"base {home}: found a {config.get('model_type')} model of transformers; expected a language model, or a whole "
            "checkpoint of the original repositories"
        )
    where = str(home / CONFIG_FILE)
    wrong = differences({"model_type": language_model_type(config)}, text) if text else []
    if text and not wrong:
        wrong = differences(text_config(config, where), text)
    if wrong:
        raise CheckpointError(f"base {home}: is not the language model that {folder} was trained on: {'; '.join(wrong)}")
    files = weight_files(home)
    if not files:
        raise CheckpointError(
            f"base {home}: found no weights; expected model.safetensors or pytorch_model.bin, or their shards"
        )
    return gather(FileTensors(files)), home


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
    """The conversation template; marks around pictures are its option."""
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


def added_tokens(folder: Path) -> set[str]:
    """The tokens that were added to the folder's tokenizer, special ones among them."""
    tokens: set[str] = set()
    for entry in _read(folder, "tokenizer.json").get("added_tokens") or ():
        tokens.add(str(entry.get("content")))
    for entry in (_read(folder, "tokenizer_config.json").get("added_tokens_decoder") or {}).values():
        tokens.add(str(entry.get("content")))
    return tokens | set(_read(folder, "added_tokens.json"))


def _read(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name) if (folder / name).is_file() else {}


def _stored_type(tensors: Tensors) -> str:
    """The type of most of the component's numbers."""
    counts: dict[torch.dtype, int] = {}
    for name, shape in tensors.shapes().items():
        counts[tensors.dtype(name)] = counts.get(tensors.dtype(name), 0) + torch.Size(shape).numel()
    stored = str(max(counts, key=lambda dtype: counts[dtype])).removeprefix("torch.") if counts else DTYPES[0]
    return stored if stored in DTYPES else DTYPES[0]


def _needed(folder: Path, said: OriginalConfig) -> Mapping[str, Any]:
    if said.text is None:
        raise CheckpointError(
            f"{folder}: found no {CONFIG_FILE} with a model_type; expected the one that was saved with the weights"
        )
    return said.text


def _config_of(home: Path) -> dict[str, Any]:
    if not (home / CONFIG_FILE).is_file():
        raise CheckpointError(f"base {home}: found no {CONFIG_FILE}; expected a folder in the layout of the Hugging Face hub")
    return read_json(home / CONFIG_FILE)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _hint(config: Mapping[str, Any]) -> str:
    name = config.get("_name_or_path")
    return f"; its config names {name!r}" if name else ""
