"""LLaVA and LLaVA-NeXT folders of transformers, described."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaConfig, LlavaNextConfig

from ..core.checkpoint import CONFIG_FILE, clean_config
from ..errors import CheckpointError, first_line, shorten
from ..recipe.schema import COMPONENTS, Model, Part
from .experts import stacked
from .foreign import Foreign, LoadOptions, stored_type
from .layouts import NEWLINE, by_component, from_transformers
from .preprocessor import Pictures, read_pictures
from .template_choice import choose_template
from .tensors import FileTensors, RenamedTensors, Tensors, weight_files

MODEL_TYPES = ("llava", "llava_next")
_CONFIGS: dict[str, Any] = {"llava": LlavaConfig, "llava_next": LlavaNextConfig}

# The tower's model_type -> our encoder.
_ENCODERS = {"clip_vision_model": "clip", "siglip_vision_model": "siglip", "dinov2": "dinov2"}

# Names in transformers (`ACT2FN`) -> ours. "linear" is no activation at all: two maps in a row.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "linear": "identity",
}


def read(folder: Path, config: dict[str, Any], options: LoadOptions) -> Foreign:
    """The folder's parts and where their tensors lie.

    Raises `CheckpointError` for settings that we cannot honour, and for files that are missing or damaged.
    """
    resolved = _resolve(folder, config)
    tensors, newline = open_tensors(folder)
    text, text_notes = _text_config(resolved, tensors["language_model"])
    vision = _plain(resolved.vision_config)
    anyres = resolved.model_type == "llava_next"
    pictures = read_pictures(
        folder, vision["image_size"], anyres=anyres, pinpoints=resolved.image_grid_pinpoints if anyres else None
    )
    dtypes = {name: options.dtype or stored_type(tensors[name]) for name in COMPONENTS}
    encoder = _encoder(folder, resolved, vision, pictures, dtypes["encoder"])
    language_model = Part.model_validate(
        {"type": "causal_lm", "config": text, "tokenizer": str(folder), "dtype": dtypes["language_model"]}
    )
    template, template_note = choose_template(folder, text["model_type"], wanted=options.template, tokenisation="whole")
    block = Model(
        encoder=encoder,
        connector=_connector(folder, resolved),
        language_model=language_model,
        template=template,
        tiling=pictures.tiling,
    )
    return Foreign(
        layout=f"a {resolved.model_type} folder of transformers",
        folder=folder,
        block=block,
        tensors=tensors,
        tokenizer=folder,
        newline=newline,
        image_token=resolved.image_token_index,
        notes=tuple(note for note in (template_note, pictures.note, *text_notes) if note),
    )


def _resolve(folder: Path, config: dict[str, Any]) -> Any:
    """The config with transformers' own defaults: on the hub its sub-configs say only what differs from them."""
    where = folder / CONFIG_FILE
    cleaned = clean_config(config, str(where))
    try:
        return _CONFIGS[cleaned["model_type"]].from_dict(cleaned)
    except Exception as error:
        raise CheckpointError(f"{where}: cannot be used: {first_line(error)}") from error


def _plain(config: Any) -> dict[str, Any]:
    """A config of transformers as plain values, without what names code or ways of running."""
    values = json.loads(config.to_json_string(use_diff=False))
    return {**clean_config(values, config.model_type), "model_type": config.model_type}


def open_tensors(folder: Path) -> tuple[dict[str, Tensors], tuple[Tensors, str] | None]:
    """The tensors of each component, and the newline row where there is one. Raises `CheckpointError` for foreign names."""
    files = weight_files(folder)
    if not files:
        raise CheckpointError(
            f"{folder}: found no weights; expected model.safetensors, its shards with model.safetensors.index.json, or "
            "pytorch_model.bin"
        )
    stored = FileTensors(files)
    names, unknown = by_component(stored.shapes(), from_transformers)
    if unknown:
        raise CheckpointError(
            f"{folder}: found tensors that no LLaVA model of transformers has: {shorten([repr(name) for name in unknown])}"
        )
    newline = (stored, names[NEWLINE][NEWLINE]) if names[NEWLINE] else None
    return {component: stacked(RenamedTensors(stored, names[component])) for component in COMPONENTS}, newline


def _text_config(resolved: Any, tensors: Tensors) -> tuple[dict[str, Any], list[str]]:
    """The language model's config as transformers' LLaVA classes run it, and what there is to say about it.

    A head that is stored and is not the embedding is a head of its own, whatever the config says.
    """
    text, notes = _plain(resolved.text_config), []
    tied = bool(resolved.tie_word_embeddings or text.get("tie_word_embeddings"))
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if tied and head in tensors and embedding in tensors and not torch.equal(tensors.read(head), tensors.read(embedding)):
        tied = False
        notes.append("the config ties the head to the embedding, but another head is stored: the stored one is used")
    if text.get("final_logit_softcapping") is not None:
        text["final_logit_softcapping"] = None
        notes.append("final_logit_softcapping is left out, as transformers' LLaVA classes leave it out")
    if text["model_type"].startswith("gemma"):
        notes.append(
            "Gemma multiplies its input rows by the root of its width: here all of them, as when LLaVA was trained with it; "
            "transformers 5 leaves out the visual rows"
        )
    return {**text, "tie_word_embeddings": tied}, notes


def _encoder(folder: Path, resolved: Any, vision: Mapping[str, Any], pictures: Pictures, dtype: str) -> Part:
    where, kind = folder / CONFIG_FILE, vision["model_type"]
    name = _ENCODERS.get(kind)
    if name is None:
        raise CheckpointError(f"{where}: vision_config: found model_type {kind!r}; expected one of {', '.join(_ENCODERS)}")
    keeps_all = resolved.vision_feature_select_strategy == "full"
    if name == "siglip" and not keeps_all:
        raise CheckpointError(
            f"{where}: vision_feature_select_strategy: found 'default', which leaves out the class token, and a SigLIP tower "
            "has none (transformers would leave out the first patch); expected 'full'"
        )
    keep_cls = keeps_all and name != "siglip"
    if keep_cls and resolved.model_type == "llava_next":
        raise CheckpointError(
            f"{where}: vision_feature_select_strategy: found 'full' with the tower {kind}, whose class token has no place in "
            "the picture; expected 'default'"
        )
    layers = resolved.vision_feature_layer
    options: dict[str, Any] = {
        "config": vision,
        "feature_layer": layers if isinstance(layers, int) else list(layers),
        "dtype": dtype,
    }
    if keep_cls:
        options["keep_cls"] = True
    if pictures.mean is not None:
        options |= {"mean": list(pictures.mean), "std": list(pictures.std or ())}
    return Part(type=name, **options)


def _connector(folder: Path, resolved: Any) -> Part:
    activation = ACTIVATIONS.get(resolved.projector_hidden_act)
    if activation is None:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: projector_hidden_act: found {resolved.projector_hidden_act!r}; expected one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    return Part.model_validate(
        {"type": "mlp", "depth": 2, "activation": activation, "bias": resolved.multimodal_projector_bias}
    )
