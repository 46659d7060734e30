"""Run by test_launches.py in a process of its own: every launch that our code makes goes through Triton's own launcher.

A stand-in for the driver says that there is a Hopper GPU. Arguments are bound and specialised and the kernel is compiled for
it, as at the first launch on such a device; then it is not run, so tensors may lie on the CPU.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

MOST_ON_OTHER_AXES = 2**16 - 1  # of a grid, as CUDA has it

compiled: dict[str, int] = {}


class Hopper:
    """What the launcher asks of a driver before it compiles."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def _launch(kernel: Any, grid: tuple[int, ...]) -> Any:
    assert all(size >= 1 for size in grid), grid
    assert grid[0] < 2**31, grid
    assert all(size <= MOST_ON_OTHER_AXES for size in grid[1:]), grid

    def go(*arguments: Any, **options: Any) -> None:
        made = JITFunction.run(kernel, *arguments, grid=grid, warmup=True, **options)
        compiled[f"{kernel.fn.__module__}.{kernel.fn.__name__} {made.hash}"] = made.metadata.shared

    return go


def main() -> None:
    from llava_kit.testing import battery
    from llava_kit.testing.losses import head_model, loss_cases
    from llava_kit_kernels import ops
    from llava_kit_kernels.loss import TritonLoss
    from llava_kit_kernels.ops import head_loss, linear_dgelu, linear_gelu, linear_scatter
    from llava_kit_kernels.ops.choices import Choice
    from llava_kit_kernels.ops.gemm import SMALL
    from llava_kit_kernels.splicer import TritonSplicer

    driver.set_active(Hopper())
    JITFunction.__getitem__ = _launch  # type: ignore[method-assign]
    for found in pkgutil.iter_modules(ops.__path__):
        module = importlib.import_module(f"{ops.__name__}.{found.name}")
        if hasattr(module, "require_device"):
            module.require_device = lambda *tensors: None
    for module in (linear_dgelu, linear_gelu, linear_scatter):
        module.choose = lambda *key: Choice(SMALL)  # type: ignore[attr-defined]
    dtype = torch.bfloat16
    # Widths of one, odd ones, tails; connectors of all kinds; blends; nothing to project; filled-up lists.
    names = {"anyres_1_1", "anyres_41_341", "packed_line", "halving", "blended", "text_only_no_tiles", "class_token"}
    for case in battery():
        if case.name in names | {"filled_packed"}:
            parts = case.parts(dtype, "cpu")
            rows = TritonSplicer()(case.plan, parts.features, parts.connector, parts.embedding, parts.newline)
            rows.backward(torch.ones_like(rows))
            with torch.no_grad():
                TritonSplicer()(case.plan, parts.features, parts.connector, parts.embedding, parts.newline)
    head_loss._TILE = 2  # so that small losses are made in slices too
    for case in loss_cases():
        hidden, positions, ids, model = head_model(case, dtype, "cpu")
        for limit in (1, 2**28):  # by slices of words, and all at once
            loss = TritonLoss(limit)(hidden, positions, ids, model)
            if loss.requires_grad:
                loss.backward()
    sys.stdout.write(json.dumps(compiled) + "\n")


if __name__ == "__main__":
    main()
