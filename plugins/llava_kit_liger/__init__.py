"""The loss of liger-kernel: its fused head and cross-entropy, over the supervised rows alone. It needs `llava-kit[liger]`."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

from llava_kit import Options, hookimpl
from llava_kit.core.device import cuda_capability

if TYPE_CHECKING:
    from .loss import LigerLoss


class LigerOptions(Options):
    """Liger's fused linear cross-entropy; it reads one number back from the device at each step (needs a CUDA device)."""


def build_liger(options: LigerOptions) -> LigerLoss:
    """Liger's loss; importing liger-kernel takes some seconds."""
    from .loss import LigerLoss

    return LigerLoss()


def why_unavailable() -> str | None:
    """Why it cannot run here, in one line; None if it can (on the CPU too where Triton interprets kernels)."""
    if importlib.util.find_spec("liger_kernel") is None:
        return "the package liger-kernel is not installed (pip install 'llava-kit[liger]')"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return None if cuda_capability() is not None else "it needs a CUDA device, and there is none"


@hookimpl
def register_losses(register):
    register("liger", options=LigerOptions, build=build_liger, unavailable=why_unavailable)
