"""Activations and derivatives of kernels: torch's values in float64, over the range that layers see and beyond."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from llava_kit_kernels.ops.activations import ACTIVATIONS, activate, differentiate, torch_activate, torch_backward
from llava_kit_kernels.ops.common import KernelInputError
from llava_kit_kernels.ops.linear_gelu import require_activation

SIZE = 1024


@triton.jit
def _both(z, value, slope, activation: tl.constexpr, size: tl.constexpr):
    here = tl.arange(0, size)
    block = tl.load(z + here)
    tl.store(value + here, activate(block, activation))
    tl.store(slope + here, differentiate(block, activation))


def by_kernel(z: torch.Tensor, activation: str) -> tuple[torch.Tensor, torch.Tensor]:
    value, slope = torch.empty_like(z), torch.empty_like(z)
    kernel: Any = _both
    kernel[(1,)](z, value, slope, activation, SIZE)
    return value, slope


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.filterwarnings("ignore:overflow")
def test_values_and_slopes(activation, home):
    z = torch.linspace(-12, 12, SIZE, device=home)
    z[SIZE // 2] = 0.0
    value, slope = by_kernel(z, activation)
    before = z.double().requires_grad_()
    expected = torch_activate(before, activation)
    (expected_slope,) = torch.autograd.grad(expected.sum(), before)
    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(slope.double(), expected_slope, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_far_out_and_no_number(activation, home):
    z = torch.zeros(SIZE, device=home)
    z[:3] = torch.tensor([1e4, -1e4, float("nan")], device=home)
    value, slope = by_kernel(z, activation)
    assert value[:2].tolist() == [1e4, 0.0]
    assert slope[:2].tolist() == [1.0, 0.0]
    assert value[2].isnan()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_torchs_backward_is_torchs_gradient(activation, home):
    z = torch.linspace(-4, 4, 100, device=home, requires_grad=True)
    upstream = torch.randn(100, device=home)
    torch_activate(z, activation).backward(upstream)
    torch.testing.assert_close(torch_backward(upstream, z.detach(), activation), z.grad)


def test_an_unknown_name():
    with pytest.raises(KernelInputError, match="no activation 'swish' in the kernels; expected gelu, gelu_tanh, relu, silu"):
        require_activation("swish")
