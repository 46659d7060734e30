"""GPU kernels: the Triton splicer. `llava_kit_kernels.ops` are its operations, which need nothing but torch and triton."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

from llava_kit import Options, hookimpl

if TYPE_CHECKING:
    from .splicer import TritonSplicer

# bfloat16 in matrix products and asynchronous copies come with Ampere; below it nothing here was written for.
_OLDEST = (8, 0)


class TritonOptions(Options):
    """Gather, projector and splice in Triton kernels and cuBLAS, each row written once (needs a CUDA device)."""


def build_triton(options: TritonOptions) -> TritonSplicer:
    """The Triton splicer."""
    from .splicer import TritonSplicer

    return TritonSplicer()


def why_unavailable() -> str | None:
    """Why the kernels cannot run here, in one line; None if they can (on the CPU too where Triton interprets them)."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (it is made for Linux alone)"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    import torch

    if not torch.cuda.is_available():
        return "it needs a CUDA device, and torch finds none"
    found = torch.cuda.get_device_capability()
    if found < _OLDEST:
        return f"it needs compute capability {_OLDEST[0]}.{_OLDEST[1]} (Ampere) or newer, found {found[0]}.{found[1]}"
    return None


@hookimpl
def register_splicers(register):
    register("triton", options=TritonOptions, build=build_triton, unavailable=why_unavailable)
