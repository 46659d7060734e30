"""linear_dgelu against a product and gelu_backward: from the second layer of LLaVA's projector back to the first.

M rows, N = K the width of the language model, bfloat16.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from timing import Case, run

from llava_kit_kernels.ops.activations import torch_backward
from llava_kit_kernels.ops.choices import Choice, choose
from llava_kit_kernels.ops.gemm import CANDIDATES, SMALL
from llava_kit_kernels.ops.linear_dgelu import linear_dgelu

# Name, rows, width. A sample of LLaVA-1.5 has 576 rows, one of LLaVA-NeXT at 640x480 2,304.
CASES = [
    ("LLaVA-1.5-7B, B=1", 576, 4096),
    ("LLaVA-1.5-7B, B=8", 4608, 4096),
    ("LLaVA-1.5-7B, B=32", 18432, 4096),
    ("LLaVA-1.5-13B, B=8", 4608, 5120),
    ("LLaVA-NeXT-34B, B=8", 18432, 7168),
]
# Two roundings to bfloat16, of the product and of the gradient, against one.
TOLERANCE = 2.0**-6


def make_cases(device: str, tiny: bool) -> Iterator[Case]:
    """For each size what the tables choose, then every tile."""
    for name, rows, width in [("tiny", 40, 48)] if tiny else CASES:
        grad = torch.randn(rows, width, device=device).bfloat16()
        weight = torch.randn(width, width, device=device).mul_(width**-0.5).bfloat16()
        z = torch.randn(rows, width, device=device).bfloat16()

        def peer(grad=grad, weight=weight, z=z):
            return torch_backward(grad @ weight, z, "gelu")

        chosen = choose("linear_dgelu", grad.device, grad.dtype, rows, width, width)
        num_bytes = 2 * (3 * rows * width + width * width)
        for label, choice in [("chosen: ", chosen), *(("", Choice(tile)) for tile in ([SMALL] if tiny else CANDIDATES))]:

            def ours(grad=grad, weight=weight, z=z, choice=choice):
                return linear_dgelu(grad, weight, z, "gelu", choice)

            yield Case(f"{name}, {label}{choice}", ours, peer, num_bytes, TOLERANCE)


if __name__ == "__main__":
    sys.exit(run(__doc__, make_cases))
