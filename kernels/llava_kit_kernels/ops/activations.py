"""The activations of LLaVA's projectors and their derivatives: for kernels, in float32, and the same by torch.

GELU by the error function is `nn.GELU()` of LLaVA and "gelu" in configurations of Hugging Face; "gelu_tanh" is for checkpoints
that say so. Triton's interpreter has no `libdevice.tanh`; tanh(u) is 2 sigmoid(2u) - 1, so (1 + tanh(u)) / 2 is sigmoid(2u).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .common import KernelInputError

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")

# Constants stand to the right of what they multiply: to the left the interpreter makes a constant of the product.
SQRT_HALF = tl.constexpr(0.7071067811865476)
# 1 / sqrt(2 pi): the height of the normal density, the derivative of its distribution.
DENSITY = tl.constexpr(0.3989422804014327)
# sqrt(2 / pi) and the cubic term of the tanh approximation (Hendrycks and Gimpel, https://arxiv.org/abs/1606.08415).
SQRT_TWO_OVER_PI = tl.constexpr(0.7978845608028654)
CUBIC = tl.constexpr(0.044715)


def require_activation(name: str) -> None:
    """`name` must be one of `ACTIVATIONS`, else `KernelInputError`."""
    if name not in ACTIVATIONS:
        raise KernelInputError(f"there is no activation {name!r} in the kernels; expected {', '.join(ACTIVATIONS)}")


@triton.jit
def activate(z, activation: tl.constexpr):
    """The activation of a float32 block. NaN stays NaN."""
    tl.static_assert(z.dtype == tl.float32)
    if activation == "gelu":
        return 0.5 * z * (1.0 + tl.erf(z * SQRT_HALF))
    elif activation == "gelu_tanh":
        return z * tl.sigmoid((z + z * z * z * CUBIC) * (2.0 * SQRT_TWO_OVER_PI))
    elif activation == "relu":
        return tl.where(z < 0.0, 0.0, z)
    else:
        tl.static_assert(activation == "silu")
        return z * tl.sigmoid(z)


@triton.jit
def differentiate(z, activation: tl.constexpr):
    """The derivative of the activation at a float32 block; that of relu at 0 is 0, as in torch."""
    tl.static_assert(z.dtype == tl.float32)
    if activation == "gelu":
        return 0.5 * (1.0 + tl.erf(z * SQRT_HALF)) + z * DENSITY * tl.exp(-0.5 * z * z)
    elif activation == "gelu_tanh":
        inner = (z + z * z * z * CUBIC) * (2.0 * SQRT_TWO_OVER_PI)
        slope = (1.0 + z * z * (3.0 * CUBIC)) * (2.0 * SQRT_TWO_OVER_PI)
        # sigmoid(|u|) is larger, sigmoid(-|u|) small * larger: 1 - sigmoid(u) would lose digits, and slope makes much of them.
        small = tl.exp(-tl.abs(inner))
        larger = 1.0 / (1.0 + small)
        return tl.where(inner < 0.0, small, 1.0) * larger + z * (small * larger) * larger * slope
    elif activation == "relu":
        return tl.where(z <= 0.0, 0.0, 1.0)
    else:
        tl.static_assert(activation == "silu")
        gate = tl.sigmoid(z)
        return gate * (1.0 + z * (1.0 - gate))


def torch_activate(z: Tensor, activation: str) -> Tensor:
    """`activate` by torch, in one kernel."""
    if activation == "gelu":
        return F.gelu(z)
    if activation == "gelu_tanh":
        return F.gelu(z, approximate="tanh")
    return F.relu(z) if activation == "relu" else F.silu(z)


def torch_backward(grad: Tensor, z: Tensor, activation: str) -> Tensor:
    """grad * activation'(z) by torch, in one kernel."""
    aten = torch.ops.aten
    if activation == "gelu":
        return aten.gelu_backward(grad, z)
    if activation == "gelu_tanh":
        return aten.gelu_backward(grad, z, approximate="tanh")
    return aten.threshold_backward(grad, z, 0) if activation == "relu" else aten.silu_backward(grad, z)
