"""The gradient before an activation: (grad @ weight) * act'(z), the backward pass through LLaVA's second layer to the first.

M rows, N contracted (the features out of the layer whose weight it is), K columns. Sums and derivative are float32.
`choices` says whether Triton or cuBLAS and one elementwise kernel do it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .activations import ACTIVATIONS, differentiate, require_activation, torch_backward
from .choices import Choice, choose
from .common import AheadCase, KernelInputError, contiguous_rows, require_same
from .gemm import (
    CANDIDATES,
    COUNTS,
    SMALL,
    STRAIGHT,
    ahead_case,
    ahead_cases,
    check_operands,
    corner,
    inside_of,
    launch_product,
    product,
    quarters,
    row_stride,
    tiles_of,
    window,
)


@triton.jit(do_not_specialize=COUNTS)
def _kernel(
    grad, weight, z, result, num_rows, num_columns, depth, grad_stride, weight_stride, z_stride,
    activation: tl.constexpr, even: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """Here `depth` is N and `num_columns` is K: the weight [N, K] is not turned."""
    num_tiles = tiles_of(num_rows, block_m) * tiles_of(num_columns, block_n)
    part: tl.constexpr = block_n // 4
    for turn in range(tl.cdiv(num_tiles - tl.program_id(0), tl.num_programs(0))):
        m, n = corner(tl.program_id(0) + turn * tl.num_programs(0), num_rows, num_columns, block_m, block_n)
        sums = product(
            grad, weight, m, n, num_rows, num_columns, depth, grad_stride, weight_stride,
            STRAIGHT, even, block_m, block_n, block_k,
        )  # fmt: skip
        first, second, third, fourth = quarters(sums, block_m, block_n)
        _store(first, z, result, m, n, num_rows, num_columns, z_stride, activation, block_m, part)
        _store(second, z, result, m, n + part, num_rows, num_columns, z_stride, activation, block_m, part)
        _store(third, z, result, m, n + 2 * part, num_rows, num_columns, z_stride, activation, block_m, part)
        _store(fourth, z, result, m, n + 3 * part, num_rows, num_columns, z_stride, activation, block_m, part)


@triton.jit
def _store(
    sums, z, result, m, n, num_rows, num_columns, z_stride,
    activation: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    inside = inside_of(m, n, num_rows, num_columns, rows, columns)
    before = tl.load(window(z, m, n, z_stride, rows, columns), mask=inside, other=0.0).to(tl.float32)
    sums *= differentiate(before, activation)
    tl.store(window(result, m, n, num_columns, rows, columns), sums.to(result.dtype.element_ty), mask=inside)


@torch.no_grad()
def linear_dgelu(grad: Tensor, weight: Tensor, z: Tensor, activation: str, choice: Choice | None = None) -> Tensor:
    """grad [M, N], weight [N, K], z [M, K] -> [M, K] = (grad @ weight) * activation'(z), all in one dtype; no gradient.

    `activation`: gelu (by erf), gelu_tanh, relu or silu. `choice`: what runs, instead of what the tables say.
    Raises `KernelInputError`.
    """
    require_activation(activation)
    check_operands(grad, weight, None, z=z)
    if z.dtype != grad.dtype:
        raise KernelInputError(f"`z` is {z.dtype} and `grad` {grad.dtype}; expected one dtype")
    require_same("rows", grad=grad.shape[0], z=z.shape[0])
    require_same("features", grad=grad.shape[1], weight=weight.shape[0])
    require_same("columns", weight=weight.shape[1], z=z.shape[1])
    choice = choice or choose("linear_dgelu", grad.device, grad.dtype, grad.shape[0], *weight.shape)
    if choice.tile is None:
        return torch_backward(grad @ weight, z, activation)
    grad, weight, z = contiguous_rows(grad), contiguous_rows(weight), contiguous_rows(z)
    size = (grad.shape[0], weight.shape[1], weight.shape[0])
    result = grad.new_empty(size[:2])
    strides = row_stride("grad", grad), row_stride("weight", weight), row_stride("z", z)
    row_stride("result", result)
    launch_product(_kernel, choice.tile, size, grad, weight, z, result, *size, *strides, activation, on=grad)
    return result


def ahead_of_time() -> list[AheadCase]:
    """The forms to compile without a device."""
    pointers: dict[str, str] = dict.fromkeys(["grad", "weight", "z", "result"], "")
    cases = ahead_cases("linear_dgelu", _kernel, pointers, activation="gelu")
    for activation in ACTIVATIONS[1:]:
        name = f"linear_dgelu {activation} {CANDIDATES[0]}"
        cases.append(ahead_case(name, _kernel, CANDIDATES[0], torch.bfloat16, pointers, activation=activation))
    # At a launch a stride of 1 becomes a constant: that of a weight with one column.
    single = {"num_columns": 1, "weight_stride": 1, "z_stride": 1, "activation": "gelu"}
    return [*cases, ahead_case("linear_dgelu to one column", _kernel, SMALL, torch.float32, pointers, **single)]
