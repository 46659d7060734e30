"""Checkpoints in the Hugging Face layout, opened so that nothing in them can run code or choose how we run.

For plugins that wrap a model of transformers. Imported by their build functions, never by listing plugins: it loads torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import logging as transformers_logging

from ..errors import CheckpointError, PluginError, first_line, shorten, suggest

CONFIG_FILE = "config.json"
_ADAPTER = "adapter_config.json"
# What of a repository is fetched: never code, and pickles only where there is nothing else.
_TEXT_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
_SAFETENSORS, _SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
_PICKLE, _PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

# Keys by which a config could name code to run, or decide what our options decide (CVE-2026-4372 went through one of them).
_IGNORED_KEYS = {"auto_map", "trust_remote_code", "custom_pipelines", "use_kernels", "dtype", "torch_dtype"}
_IGNORED_KEYS |= {"output_attentions", "output_hidden_states", "return_dict", "architectures", "transformers_version"}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found: its cleaned config, and its folder (None for a preset: then only the config is known)."""

    name: str
    config: dict[str, Any]
    folder: Path | None

    def read_json(self, file: str) -> dict[str, Any]:
        """Another JSON file of the folder; empty when there is none."""
        if self.folder is None or not (self.folder / file).is_file():
            return {}
        return read_json(self.folder / file)


def open_checkpoint(
    name: str | None,
    presets: Mapping[str, Mapping[str, Any]],
    *,
    weights: bool,
    config: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """The checkpoint that `name` stands for: a local folder, or a repository of the Hugging Face hub.

    With `weights=False` nothing is downloaded: the config comes from the folder, from `presets`, or from the hub's local cache.
    A `config` given here stands for itself: an architecture whose weights lie elsewhere, in a folder of llava_kit for example.

    Raises `PluginError` when there is no such thing, `CheckpointError` when its config cannot be used.
    """
    if config is not None:
        where = f"config of {config.get('model_type', 'no model_type')}"
        if weights:
            raise PluginError(
                f"{where}: found an architecture without weights (`config`), expected a `checkpoint` to take them from; name "
                "one, or start the stage from a model folder (`start_from`)"
            )
        return Checkpoint(where, clean_config(config, where), None)
    if name is None:
        raise PluginError(f"found neither `checkpoint` nor `config`; expected one of them; {suggest('', presets)}")
    folder: Path | None = Path(name).expanduser()
    if not folder.is_dir():
        if weights:
            folder = _download(name, presets)
        elif name in presets:
            return Checkpoint(name, clean_config(presets[name], name), None)
        else:
            folder = _cached(name, presets)
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder}: found no {CONFIG_FILE}; expected a folder in the layout of the Hugging Face hub")
    return Checkpoint(name, clean_config(read_json(path), str(path)), folder)


def fetch_checkpoint(name: str) -> Path:
    """The folder that `name` stands for: itself, or the hub repository's files, downloaded where they are not here yet.

    Raises `PluginError` when there is no such thing.
    """
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else _download(name, {})


def build_model(
    model_class: Any,
    config: Any,
    checkpoint: Checkpoint,
    *,
    weights: bool,
    dtype: torch.dtype,
    attention: str,
    optional: Sequence[str] = (),
    extra_tensors: bool = False,
) -> Any:
    """A transformers model of `model_class`, with the checkpoint's weights or (`weights=False`) freshly initialised.

    Without weights it may be called under `torch.device("meta")`; buffers that no file holds (rotary frequencies) are real
    even then, so that a state dict may be assigned.

    `optional`: beginnings of the names of tensors that a checkpoint need not hold. `extra_tensors`: it may hold tensors that
    the model has no place for (a text tower, layers that are not wanted).

    Raises `CheckpointError` naming the file or the tensor; no tensor is left at its initial value silently.
    """
    if not weights:
        model = model_class._from_config(config, dtype=dtype, attn_implementation=attention)
        _make_buffers_real(model)
        return model
    folder = checkpoint.folder
    assert folder is not None
    safe = _check_files(folder)
    try:
        with quiet_transformers():
            model, info = model_class.from_pretrained(
                str(folder),
                config=config,
                dtype=dtype,
                attn_implementation=attention,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=safe,
                ignore_mismatched_sizes=True,  # they are gathered in `info`, so that all are named at once
                output_loading_info=True,
            )
    except Exception as error:
        raise CheckpointError(f"{folder}: the weights cannot be read: {first_line(error)}") from error
    wrong = [f"missing tensor {key!r}" for key in info["missing_keys"] if not key.startswith(tuple(optional))]
    wrong += [
        f"tensor {key!r}: found shape {tuple(found)}, expected {tuple(expected)}"
        for key, found, expected in info["mismatched_keys"]
        if not key.startswith(tuple(optional))
    ]
    if not extra_tensors:
        wrong += [f"tensor {key!r}: the model has no place for it" for key in info["unexpected_keys"]]
    if wrong:
        raise CheckpointError(f"{folder}: the weights do not fit {CONFIG_FILE}: " + shorten(sorted(wrong)))
    return model


def _download(name: str, presets: Mapping[str, Any]) -> Path:
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise PluginError(f"checkpoint {name!r}: found no such folder")
    try:
        with quiet_transformers():
            folder = Path(snapshot_download(name, allow_patterns=[*_TEXT_FILES, "model*.safetensors"]))
            if not any(folder.glob("*.safetensors")):
                folder = Path(snapshot_download(name, allow_patterns=[*_TEXT_FILES, "pytorch_model*.bin"]))
    except Exception as error:
        raise PluginError(
            f"checkpoint {name!r}: found no such folder, and it could not be downloaded ({first_line(error)}); "
            f"{suggest(name, presets)}"
        ) from error
    return folder


def _cached(name: str, presets: Mapping[str, Any]) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=list(_TEXT_FILES), local_files_only=True))
    except Exception as error:
        raise PluginError(
            f"checkpoint {name!r}: found no such folder, nothing of that name in the hub's cache, and no preset; "
            f"{suggest(name, presets)}"
        ) from error


def clean_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config without the keys that name code or ways of running, at any depth; `where` is for messages."""
    if "quantization_config" in config:
        raise CheckpointError(f"{where}: found quantised weights (quantization_config); expected float weights")
    cleaned = {}
    for key, value in config.items():
        if key in _IGNORED_KEYS or key.startswith("_") or key.endswith("_implementation"):
            continue
        cleaned[key] = clean_config(value, where) if isinstance(value, Mapping) else value
    return cleaned


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `CheckpointError` for a file that cannot be read, or that holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def _check_files(folder: Path) -> bool:
    """True when the weights are safetensors, False when pickles (which are read with `weights_only`: no code runs)."""
    if (folder / _ADAPTER).is_file():
        raise CheckpointError(f"{folder}: found an adapter ({_ADAPTER}); expected whole weights: merge it into its model first")
    for single, index, safe in ((_SAFETENSORS, _SAFETENSORS_INDEX, True), (_PICKLE, _PICKLE_INDEX, False)):
        if (folder / single).is_file():
            names: set[str] = {single}
        elif (folder / index).is_file():
            weight_map = read_json(folder / index).get("weight_map")
            if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
                raise CheckpointError(f"{folder / index}: expected a `weight_map` of tensor names to file names")
            names = set(weight_map.values())
        else:
            continue
        for name in sorted(names):
            if Path(name).name != name or not (folder / name).is_file():
                raise CheckpointError(f"{folder / index}: names the file {name!r}, which is not in that folder")
            if safe:
                _check_safetensors(folder / name)
        return safe
    raise CheckpointError(f"{folder}: found no weights; expected {_SAFETENSORS} (or its shards and index), or {_PICKLE}")


def _check_safetensors(path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping: it has keys() alone)
                kind = file.get_slice(name).get_dtype()
                if name.endswith(".weight") and kind not in _FLOATS:
                    raise CheckpointError(f"{path}: tensor {name!r} is of type {kind}; expected one of {', '.join(_FLOATS)}")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({first_line(error)}); is it whole?") from error


def _make_buffers_real(model: nn.Module) -> None:
    """Under the meta device: computes the buffers that no file holds, on the CPU."""
    for module in model.modules():
        names = [name for name in module._non_persistent_buffers_set if module._buffers[name] is not None]
        if any(module._buffers[name].is_meta for name in names):  # type: ignore[union-attr]
            with torch.device("cpu"):
                for name in names:
                    module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")  # type: ignore[arg-type]
                model._init_weights(module)  # type: ignore[operator]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without the reports of transformers: what is wrong with a loading is in our own errors, and would be said twice."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
