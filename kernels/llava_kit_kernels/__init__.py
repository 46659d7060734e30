"""GPU kernels: a splicer and a loss. `llava_kit_kernels.ops` are their operations, which need nothing but torch and triton."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from llava_kit import Options, hookimpl
from llava_kit.core.device import cuda_capability

if TYPE_CHECKING:
    from .loss import TritonLoss
    from .splicer import TritonSplicer

# bfloat16 in matrix products and asynchronous copies come with Ampere; below it nothing here was written for.
_OLDEST = (8, 0)


class TritonOptions(Options):
    """Gather, projector and splice in Triton kernels and cuBLAS, each row written once (needs a CUDA device)."""


class TritonLossOptions(Options):
    """Head and cross-entropy of supervised rows, in chunks, gradients made on the way (needs a CUDA device)."""


def build_splicer(options: TritonOptions) -> TritonSplicer:
    """The Triton splicer."""
    from .splicer import TritonSplicer

    return TritonSplicer()


def build_loss(options: TritonLossOptions) -> TritonLoss:
    """The Triton loss."""
    from .loss import TritonLoss

    return TritonLoss()


def build_command():
    """`llava-kit kernels show|tune`."""
    from .command import add_arguments, run

    return add_arguments, run


def why_unavailable() -> str | None:
    """Why the kernels cannot run here, in one line; None if they can (on the CPU too where Triton interprets them)."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (it is made for Linux alone)"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    found = cuda_capability()
    if found is None:
        return "it needs a CUDA device, and there is none"
    if found < _OLDEST:
        return f"it needs compute capability {_OLDEST[0]}.{_OLDEST[1]} (Ampere) or newer, found {found[0]}.{found[1]}"
    return None


def _measured(part: str) -> str | None:
    from .contest import measured

    return measured(part)


def _described(part: str) -> list[str]:
    if why_unavailable() is not None:
        return []
    from .contest import described

    return described(part)


def _register_part(register, part: str, options: type[Options], build: Callable[..., Any]) -> None:
    measured, describe = partial(_measured, part), partial(_described, part)
    register("triton", options=options, build=build, unavailable=why_unavailable, measured=measured, describe=describe)


@hookimpl
def register_splicers(register):
    _register_part(register, "splicer", TritonOptions, build_splicer)


@hookimpl
def register_losses(register):
    _register_part(register, "loss", TritonLossOptions, build_loss)


@hookimpl
def register_commands(register):
    register("kernels", build=build_command)
