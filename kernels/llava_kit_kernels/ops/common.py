"""What every operation shares: checks before a launch, how rows are cut into blocks, and cases for ahead-of-time compilation.

Shapes, dtypes, devices and counts are checked here, on the host. The values of index tensors lie on the device and cannot be
read without waiting for it, so each kernel masks what is out of range: a seat outside the buffer is not written, an index
outside the source reads zeros.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode
from triton import knobs

# With TRITON_INTERPRET=1 set before Triton is imported and kernels are defined, they run in Python on the CPU.
INTERPRETED: bool = bool(knobs.runtime.interpret)

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int32, torch.int64)
# Rows are counted in int32 inside the kernels; only offsets into elements are int64.
MOST_ROWS = 2**31 - 1
# Triton's names of the dtypes, for ahead-of-time signatures.
TRITON_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int32: "i32", torch.int64: "i64"}

# `a * b + c` in one instruction. Said at every launch, since the default of Triton changes with 3.10.
FUSION = {"enable_fp_fusion": True}


class KernelInputError(ValueError):
    """What a kernel was given that it cannot take: what was found, and what was expected. Raised before any launch."""


class AheadCase(NamedTuple):
    """A kernel in one of the forms in which it may be launched, for compilation without a device.

    `signature` names the type of every parameter of the kernel that `constants` does not give a value: `*bf16` for a pointer,
    `i32`, or `i32:16` for a number that is a multiple of 16. `has_dot`: its machine code must hold wgmma instructions.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, object]
    num_warps: int
    num_stages: int
    has_dot: bool = False


def require_device(*tensors: Tensor | None) -> None:
    """All `tensors` (None is passed over) must lie on one device that can run kernels, else `KernelInputError`."""
    devices = {tensor.device for tensor in tensors if tensor is not None}
    if len(devices) > 1:
        found = ", ".join(sorted(map(str, devices)))
        raise KernelInputError(f"the tensors lie on several devices ({found}); move them to one")
    for device in devices:
        if device.type != ("cpu" if INTERPRETED else "cuda"):
            where = "the CPU, since TRITON_INTERPRET=1" if INTERPRETED else "a CUDA device"
            raise KernelInputError(f"the tensors lie on {device}, expected {where}")


def require_floats(**tensors: Tensor | None) -> None:
    """Each tensor must be float32, bfloat16 or float16."""
    for name, tensor in tensors.items():
        if tensor is not None:
            require_dtype(name, tensor.dtype)


def require_dtype(name: str, dtype: torch.dtype) -> None:
    """`dtype`, of the tensor `name`, must be one that kernels read and write."""
    if dtype not in FLOATS:
        raise KernelInputError(f"`{name}` is {dtype}; expected float32, bfloat16 or float16")


def require_indices(**tensors: Tensor | None) -> None:
    """Each tensor must be a list of int32 or int64, shorter than 2^31."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.dtype not in INTEGERS:
            raise KernelInputError(f"`{name}` is {tensor.dtype}; an index is int32 or int64")
        require_rank(name, tensor, 1)
        require_count(name, tensor.shape[0])


def require_rank(name: str, tensor: Tensor, *ranks: int) -> None:
    """`tensor` must have one of `ranks` dimensions."""
    if tensor.dim() not in ranks:
        expected = " or ".join(map(str, ranks))
        raise KernelInputError(f"`{name}` has the shape {list(tensor.shape)}; expected {expected} dimension(s)")


def require_count(name: str, rows: int) -> None:
    """`rows`, of the tensor `name`, must be less than 2^31."""
    if rows > MOST_ROWS:
        raise KernelInputError(f"`{name}` has {rows:,} rows; kernels count rows in 32 bits, so at most {MOST_ROWS:,}")


def require_same(what: str, **sizes: int) -> None:
    """The `sizes`, all of them counts of `what`, must be equal."""
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{size} in `{name}`" for name, size in sizes.items())
        raise KernelInputError(f"{what} do not agree: {found}")


def contiguous_rows(tensor: Tensor) -> Tensor:
    """`tensor`, or a contiguous copy of it where neighbours in a row are not neighbours in memory."""
    return tensor if tensor.shape[-1] <= 1 or tensor.stride(-1) == 1 else tensor.contiguous()


def index_strided(index: Tensor) -> Tensor:
    """`index`, or a copy of it where its entries do not follow one another in memory: kernels read it by number."""
    return index if index.shape[0] <= 1 or index.stride(0) == 1 else index.contiguous()


def is_plain(*tensors: Tensor) -> bool:
    """Whether nobody watches: no gradient, no compiler, no dispatch mode, no tensor of another class.

    Then an operation is called as a function, past torch's dispatcher, which takes the host longer than all launches together.
    """
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and _get_current_dispatch_mode() is None
        and all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)
    )


@functools.cache
def blocks_of(width: int) -> tuple[int, int]:
    """Rows and columns of the block that one program moves: 4,096 elements, four 16-byte accesses in flight for each thread.

    A row of more than 1,024 elements is cut into pieces; where rows are narrow a program takes more of them.
    """
    columns = min(max(triton.next_power_of_2(width), 64), 1024)
    return 4096 // columns, columns


def blocks(size: int, block: int) -> int:
    """How many blocks cover `size`. (`triton.cdiv` does the same ten times slower, which small launches feel.)"""
    return -(-size // block)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, on: Tensor, **options: Any) -> None:
    """Starts the kernel on the device of the tensor `on`, which need not be the current device."""
    with torch.cuda.device_of(on):
        kernel[grid](*arguments, **options, **FUSION)
