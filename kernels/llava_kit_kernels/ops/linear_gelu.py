"""A linear layer and its activation in one pass: h = act(x @ weight.T + bias), the first half of LLaVA's projector.

M rows, K features in, N features out. Sums and activation are float32; z, the value before the activation, is rounded
to the dtype of x, and only where it is kept for the backward pass. `choices` says whether Triton or cuBLAS and `F.gelu` do it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .activations import ACTIVATIONS, activate, require_activation, torch_activate, torch_backward
from .choices import Choice, choose
from .common import AheadCase, contiguous_rows, require_same
from .gemm import (
    CANDIDATES,
    COUNTS,
    TURNED,
    add_bias,
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
    x, weight, bias, h, z, num_rows, num_columns, depth, x_stride, weight_stride,
    activation: tl.constexpr, even: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    num_tiles = tiles_of(num_rows, block_m) * tiles_of(num_columns, block_n)
    part: tl.constexpr = block_n // 4
    for turn in range(tl.cdiv(num_tiles - tl.program_id(0), tl.num_programs(0))):
        m, n = corner(tl.program_id(0) + turn * tl.num_programs(0), num_rows, num_columns, block_m, block_n)
        sums = product(
            x, weight, m, n, num_rows, num_columns, depth, x_stride, weight_stride,
            TURNED, even, block_m, block_n, block_k,
        )  # fmt: skip
        first, second, third, fourth = quarters(sums, block_m, block_n)
        _store(first, bias, h, z, m, n, num_rows, num_columns, activation, block_m, part)
        _store(second, bias, h, z, m, n + part, num_rows, num_columns, activation, block_m, part)
        _store(third, bias, h, z, m, n + 2 * part, num_rows, num_columns, activation, block_m, part)
        _store(fourth, bias, h, z, m, n + 3 * part, num_rows, num_columns, activation, block_m, part)


@triton.jit
def _store(
    sums, bias, h, z, m, n, num_rows, num_columns, activation: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr
):  # fmt: skip
    """h and, where it is kept, z; both are contiguous."""
    inside = inside_of(m, n, num_rows, num_columns, rows, columns)
    sums = add_bias(sums, bias, n, num_columns, columns)
    if z is not None:
        tl.store(window(z, m, n, num_columns, rows, columns), sums.to(z.dtype.element_ty), mask=inside)
    tl.store(window(h, m, n, num_columns, rows, columns), activate(sums, activation).to(h.dtype.element_ty), mask=inside)


@torch.no_grad()
def linear_gelu(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep: bool, choice: Choice | None = None
) -> tuple[Tensor, Tensor]:
    """x [M, K], weight [N, K], bias [N] or None -> h [M, N] = act(z), and z [M, N] ([0, N] without `keep`).

    `activation`: gelu (by erf), gelu_tanh, relu or silu. All in one dtype; no gradient (`differentiable_linear_gelu` has one).
    `choice`: what runs, instead of what the tables say. Raises `KernelInputError`.
    """
    require_activation(activation)
    check_operands(x, weight, bias)
    require_same("features", x=x.shape[1], weight=weight.shape[1])
    size = (x.shape[0], weight.shape[0], x.shape[1])
    choice = choice or choose("linear_gelu", x.device, x.dtype, *size)
    if choice.tile is None:
        z = F.linear(x, weight, bias)
        return torch_activate(z, activation), z if keep else z.new_empty(0, size[1])
    x, weight, bias = contiguous_rows(x), contiguous_rows(weight), None if bias is None else bias.contiguous()
    h = x.new_empty(size[:2])
    z = x.new_empty(size[:2] if keep else (0, size[1]))
    strides = row_stride("x", x), row_stride("weight", weight)
    row_stride("h", h)
    arguments = (x, weight, bias, h, z if keep else None, *size, *strides, activation)
    launch_product(_kernel, choice.tile, size, *arguments, on=x)
    return h, z


@torch.library.custom_op("llava_kit::linear_gelu", mutates_args=())
def _linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep: bool) -> tuple[Tensor, Tensor]:
    return linear_gelu(x, weight, bias, activation, keep)


@_linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], weight.shape[0]), x.new_empty(x.shape[0] if keep else 0, weight.shape[0])


def _setup(ctx, inputs, output) -> None:
    x, weight, bias, ctx.activation, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, bias, output[1])


@once_differentiable
def _backward(ctx, grad: Tensor, _):
    x, weight, bias, z = ctx.saved_tensors
    if z.shape[0] < x.shape[0]:  # it was not kept
        z = F.linear(x, weight, bias)
    dz = torch_backward(grad.contiguous(), z, ctx.activation)
    dx = dz @ weight if ctx.needs_input_grad[0] else None
    dweight = dz.t() @ x if ctx.needs_input_grad[1] else None
    # One order for all runs: torch's sum over rows uses no atomics.
    dbias = dz.sum(0, dtype=torch.float32).to(bias.dtype) if ctx.needs_input_grad[2] else None
    return dx, dweight, dbias, None, None


_linear_gelu.register_autograd(_backward, setup_context=_setup)


def differentiable_linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """`linear_gelu` with gradients of x, weight and bias, once differentiable; z is kept only where one of them is wanted."""
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in (x, weight, bias))
    return _linear_gelu(x, weight, bias, activation, keep)[0]


def ahead_of_time() -> list[AheadCase]:
    """The forms to compile without a device."""
    pointers: dict[str, str] = dict.fromkeys(["x", "weight", "bias", "h", "z"], "")
    cases = ahead_cases("linear_gelu", _kernel, pointers, activation="gelu")
    for activation in ACTIVATIONS[1:]:
        name = f"linear_gelu {activation} {CANDIDATES[0]}"
        cases.append(ahead_case(name, _kernel, CANDIDATES[0], torch.bfloat16, pointers, activation=activation))
    return cases
