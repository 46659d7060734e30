"""Folders of the original repositories, described: whole checkpoints, connectors alone, LoRA adapters, delta weights.

What a folder is follows from the files in it and from the keys of its config, never from its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.checkpoint import CONFIG_FILE, fetch_checkpoint, read_json
from ..errors import CheckpointError, PluginError
from . import tinyllava_reader
from .adapter import is_adapter, read_adapter
from .delta import SummedTensors, looks_like_difference
from .foreign import Foreign, LoadOptions
from .original_config import (
    OriginalConfig,
    differences,
    language_model_type,
    read_original_config,
    text_config,
)
from .original_parts import Parts, described, gather, has_tokenizer, joined
from .tensors import FileTensors, Tensors, weight_files
from .tinyllava_reader import is_tinyllava

CONNECTOR_STEM, TRAINED_STEM = "mm_projector", "non_lora_trainables"

# Keys that no config of transformers has (others that begin with `mm_` some do). v0 wrote the last three.
KEYS = ("mm_projector_type", "mm_vision_tower", "mm_hidden_size", "mm_vision_select_layer", "mm_use_im_start_end")
# What is assumed of a connector without a config: LLaVA's recipes take the layer before the last.
STAGE_1 = {"mm_vision_select_layer": -2}

# Facts: TRI-ML/prismatic-vlms, prismatic/models/load.py, vlms/prismatic.py.
PRISMATIC = (
    "is a prismatic checkpoint, which cannot be loaded: it puts pictures between the first token and the system text, where no "
    "template of ours has a place for them, and it holds no weights of its encoder (timm's), nor the language model's config"
)


def is_original(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the folder is one of the original repositories'."""
    said = any(key in config for key in KEYS) or is_tinyllava(config) or is_prismatic(config)
    return said or bool(weight_files(folder, CONNECTOR_STEM) or weight_files(folder, TRAINED_STEM))


def is_prismatic(config: Mapping[str, Any]) -> bool:
    """Whether a config is one of TRI-ML's prismatic-vlms, or of what its scripts write for transformers."""
    model = config.get("model")
    inside = model if isinstance(model, Mapping) else config
    return {"vision_backbone_id", "llm_backbone_id", "arch_specifier"} <= inside.keys()


def read(folder: Path, config: dict[str, Any], options: LoadOptions) -> Foreign:
    """The folder's parts and where their tensors lie.

    Raises `CheckpointError` for configs and files that are missing, damaged, or cannot be honoured.
    """
    if is_prismatic(config):
        raise CheckpointError(f"{folder}: {PRISMATIC}")
    if is_tinyllava(config):
        return tinyllava_reader.read(folder, config, options)
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
    return described(folder, said, parts, options)


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
    tokenizer = folder if has_tokenizer(folder) else home
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
    return Parts(layout, joined(base, stored), text, home, tuple(notes), stage_1=True)


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
    tensors = joined(base, gather(FileTensors(trained)))
    tokenizer = folder if has_tokenizer(folder) else home
    layout = "a LoRA adapter of the original repositories, merged"
    return Parts(layout, tensors, text, tokenizer, (f"base: {home}",), adapter=adapter)


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
    tensors = gather(FileTensors(files))
    if looks_like_difference(tensors["language_model"]):
        raise CheckpointError(
            f"base {home}: holds delta weights itself (its final norm is nearly zero); expected whole weights"
        )
    return tensors, home


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


def _hint(config: Mapping[str, Any]) -> str:
    name = config.get("_name_or_path")
    return f"; its config names {name!r}" if name else ""
