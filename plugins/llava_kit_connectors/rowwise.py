"""Connectors of which each row depends on its own patch alone. D_vision and D are the widths before and after."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_kit import Connector, LinearChain, LlavaKitError, MlpWeights

# What kernels are told about; other activations keep to `forward`.
_FUSED = ("gelu", "gelu_tanh", "relu", "silu")


def make_linear(width_in: int, width_out: int, *, bias: bool = True) -> nn.Linear:
    """A linear map that keeps the size of what goes through it: weights drawn from N(0, 1 / width_in), biases zero.

    (torch's own start is a third of that variance: two such maps in a row would shrink the visual rows to a ninth.)
    """
    linear = nn.Linear(width_in, width_out, bias=bias)
    with torch.no_grad():
        linear.weight.normal_(std=width_in**-0.5)
        if linear.bias is not None:
            linear.bias.zero_()
    return linear


def activate(name: str, hidden: Tensor) -> Tensor:
    """`gelu` is exact (erf), as in LLaVA; `gelu_tanh` its approximation, `quick_gelu` CLIP's; `identity` is none at all."""
    if name == "gelu":
        return F.gelu(hidden)
    if name == "gelu_tanh":
        return F.gelu(hidden, approximate="tanh")
    if name == "quick_gelu":
        return hidden * torch.sigmoid(1.702 * hidden)  # the constant of openai/CLIP, clip/model.py
    if name == "relu":
        return F.relu(hidden)
    return F.silu(hidden) if name == "silu" else hidden


class Linear(Connector):
    """One linear map."""

    rowwise = True

    def __init__(self, vision_width: int, text_width: int, *, bias: bool = True):
        super().__init__()
        self.linear = make_linear(vision_width, text_width, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """[..., D_vision] -> [..., D]."""
        return self.linear(features)

    def chain(self) -> LinearChain:
        return LinearChain((self.linear,), "gelu")


class Mlp(Connector):
    """Linear maps with an activation between them."""

    rowwise = True

    def __init__(self, vision_width: int, text_width: int, *, depth: int = 2, activation: str = "gelu", bias: bool = True):
        super().__init__()
        widths = [vision_width, *[text_width] * depth]
        self.linears = nn.ModuleList(make_linear(a, b, bias=bias) for a, b in pairwise(widths))
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        """[..., D_vision] -> [..., D]."""
        hidden = self.linears[0](features)
        for linear in self.linears[1:]:
            hidden = linear(activate(self.activation, hidden))
        return hidden

    def chain(self) -> LinearChain:
        return LinearChain(tuple(linear for linear in self.linears if isinstance(linear, nn.Linear)), self.activation)

    def mlp(self) -> MlpWeights | None:
        if len(self.linears) != 2 or self.activation not in _FUSED:
            return None
        first, second = self.linears
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        return MlpWeights(first.weight, first.bias, second.weight, second.bias, self.activation)


class Identity(Connector):
    """Features as they are. It has no parameters, so it takes any type of number and gives the same."""

    rowwise = True

    def __init__(self, vision_width: int, text_width: int):
        super().__init__()
        if vision_width != text_width:
            raise LlavaKitError(
                f"connector identity: the encoder's features are {vision_width} wide, the language model's rows {text_width}; "
                "they must be equal: use `linear` or `mlp`"
            )

    def forward(self, features: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return features
