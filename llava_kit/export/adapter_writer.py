"""LoRA kept: a model without the adapter of its checkpoint, and the adapter apart, in the format and with the names of PEFT."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..assemble.files import write_json
from ..assemble.parts import Assembly
from ..errors import CheckpointError, LlavaKitError
from ..exchange.adapter import ADAPTER_CONFIG, Adapter, MergedTensors, is_adapter, read_adapter
from ..exchange.foreign import LoadOptions, build
from ..exchange.layouts import Place
from ..exchange.load import describe

WEIGHTS = "adapter_model.safetensors"
_PREFIX = re.compile(r"^model\.(language_model\.|vision_tower\.(vision_tower\.vision_model\.)?)?")
# Settings of training that mean something to those who train on.
_KEPT_KEYS = ("lora_dropout", "use_rslora", "fan_in_fan_out")


def load_apart(source: str | Path, *, device: str | torch.device | None = None, **options: Any) -> tuple[Assembly, Adapter]:
    """The model in a LoRA folder without its low-rank pairs (tensors that were trained whole are in it), and the adapter.

    Raises `LlavaKitError` for a folder without an adapter.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir() or not is_adapter(folder):
        raise LlavaKitError(f"lora: found 'kept', but {folder} has no {ADAPTER_CONFIG}: there is no adapter to keep apart")
    adapter = read_adapter(folder)
    foreign = describe(folder, LoadOptions(**options))
    if foreign is None:
        raise CheckpointError(f"{folder}: its adapter cannot be kept apart; only those of LLaVA's original repositories can")
    whole = replace(adapter, pairs={})
    tensors = {
        name: MergedTensors(found.base, whole, name) if isinstance(found, MergedTensors) else found
        for name, found in foreign.tensors.items()
    }
    return build(replace(foreign, tensors=tensors), device=device), adapter


def write_adapter(adapter: Adapter, folder: Path, to: str, dtype: torch.dtype) -> None:
    """`adapter_config.json` and `adapter_model.safetensors` for the model in the folder above, as `to` calls its modules."""
    odd = [place for place, pair in adapter.pairs.items() if pair.embedding or place.name.startswith("lm_head")]
    if odd and to == "transformers":
        raise CheckpointError(
            f"{adapter.folder}: adapts {odd[0].name!r}, whose rows the export may extend for the image token; export with "
            "--lora merged"
        )
    folder.mkdir()
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for place in adapter.pairs:
        module = _module(place, to)
        a, b = adapter.factors(place)
        tensors[f"base_model.model.{module}.lora_A.weight"] = a.to(dtype).contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = b.to(dtype).contiguous()
        rank = ranks[module] = adapter.rank_of(place)
        # Patterns of the source are about its own module names; here each module that differs is named.
        alphas[module] = adapter.scale(place) * (math.sqrt(rank) if adapter.config.get("use_rslora") else rank)
    config = {key: adapter.config[key] for key in _KEPT_KEYS if adapter.config.get(key) is not None}
    rank, alpha = _commonest(ranks.values()), _commonest(alphas.values())
    write_json(
        folder / ADAPTER_CONFIG,
        {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": "..",
            "inference_mode": True,
            "bias": "none",
            "r": rank,
            "lora_alpha": alpha,
            # Whole names: short ones such as q_proj would be found in the encoder, too.
            "target_modules": sorted(ranks),
            "rank_pattern": _pattern(ranks, rank),
            "alpha_pattern": _pattern(alphas, alpha),
            **config,
        },
    )
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _pattern(found: Mapping[str, Any], common: Any) -> dict[str, Any]:
    """What differs from `common`, by ends of names that mean the same inside and outside a LLaVA; longer ones first."""
    ends = {_PREFIX.sub("", module): value for module, value in found.items() if value != common}
    return dict(sorted(ends.items(), key=lambda entry: -len(entry[0])))


def _commonest(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _module(place: Place, to: str) -> str:
    """The module's path inside the model's class."""
    name = place.name.removesuffix(".weight")
    if to == "transformers":
        if place.component == "encoder":
            return f"model.vision_tower.{name}"
        return f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name
    return f"model.vision_tower.vision_tower.vision_model.{name}" if place.component == "encoder" else name
