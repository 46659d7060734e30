"""Liger's kernels in a causal LM of transformers: RMSNorm, rotary positions and gated MLP, by Liger's own functions.

Liger has one function for each architecture, `apply_liger_kernel_to_<model_type>`. Norms and MLPs are changed in the one model;
rotary positions are a function of the architecture's module, which is changed for every model of that architecture in the
process. Liger's losses are left out: the loss is a part of its own here.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from llava_kit import PluginError

_PREFIX = "apply_liger_kernel_to_"
_LOSSES = ("cross_entropy", "fused_linear_cross_entropy")


def find_patch(model_type: str) -> Callable[..., Any]:
    """Liger's function for this architecture; nothing is changed yet.

    Raises:
        PluginError: liger-kernel is not installed, or does not know the architecture; those it knows are listed.
    """
    if importlib.util.find_spec("liger_kernel") is None:
        raise PluginError(
            "kernels: found 'liger', but the package liger-kernel is not installed; pip install 'llava-kit[liger]', or write "
            "`kernels: plain`"
        )
    patches = known_patches()
    if model_type not in patches:
        raise PluginError(
            f"kernels: found 'liger' and a language model of type {model_type!r}, which Liger does not know; write "
            f"`kernels: plain` (it knows {', '.join(sorted(patches))})"
        )
    return patches[model_type]


def known_patches() -> dict[str, Callable[..., Any]]:
    """Liger's functions by model type. Importing liger-kernel takes some seconds."""
    liger: Any = importlib.import_module("liger_kernel.transformers")
    causal = {config.model_type for config in MODEL_FOR_CAUSAL_LM_MAPPING}
    found = {}
    for name in (*vars(liger), *getattr(liger, "__all__", ())):
        model_type = name.removeprefix(_PREFIX)
        if name.startswith(_PREFIX) and model_type in causal:
            patch = getattr(liger, name)
            if {"model", "rms_norm"} <= set(inspect.signature(patch).parameters):
                found[model_type] = patch
    return found


def apply_patch(patch: Callable[..., Any], decoder: nn.Module, device: torch.device) -> None:
    """Puts Liger's kernels into `decoder`, which is about to run on `device`.

    Raises:
        PluginError: no kernel can run there, or Liger's function fails.
    """
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise PluginError(f"kernels: found 'liger' and a model on {device}; Liger needs a CUDA device; write `kernels: plain`")
    known = inspect.signature(patch).parameters
    module = sys.modules[type(decoder).__module__]
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    try:
        patch(model=decoder, **{name: False for name in _LOSSES if name in known})
    except Exception as error:
        raise PluginError(
            f"kernels: Liger's {patch.__name__} cannot change {type(decoder).__name__} ({type(error).__name__}: {error}); "
            "write `kernels: plain`"
        ) from error
    finally:
        # Liger leaves its classes in transformers' module, where the next plain model would be made of them.
        for name, value in classes.items():
            setattr(module, name, value)
