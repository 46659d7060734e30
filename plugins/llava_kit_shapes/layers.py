"""What the tiny encoder and the tiny language model share: weights scaled by fan-in, and the projections of attention."""

from __future__ import annotations

from torch import Tensor, nn


def fan_in_(layer: nn.Linear, scale: float = 1.0) -> nn.Linear:
    """Return `layer` with weights N(0, scale / sqrt(fan_in)) and zero bias.

    At a width near 100 the usual fixed 0.02 is five times smaller than this.
    """
    nn.init.normal_(layer.weight, std=scale * layer.in_features**-0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """The projections around scaled dot-product attention. B rows of S positions, D width, H heads of C."""

    def __init__(self, width: int, heads: int, key_heads: int, shrink: float):
        super().__init__()
        self.heads, self.key_heads, self.head_width = heads, key_heads, width // heads
        self.queries_keys_values = fan_in_(nn.Linear(width, (heads + 2 * key_heads) * self.head_width, bias=False))
        self.output = fan_in_(nn.Linear(width, width, bias=False), shrink)

    def project(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, S, D] -> queries [B, H, S, C], keys and values [B, key_heads, S, C]."""
        mixed = self.queries_keys_values(rows).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
        query, key, value = mixed.split((self.heads, self.key_heads, self.key_heads), dim=1)
        return query, key, value

    def out(self, attended: Tensor) -> Tensor:
        """[B, H, S, C] -> [B, S, D]."""
        return self.output(attended.transpose(1, 2).flatten(2))
