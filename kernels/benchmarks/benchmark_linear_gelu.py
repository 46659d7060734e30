"""linear_gelu against F.linear and F.gelu: the first layer of LLaVA's projector, the value before the activation kept.

M rows, K the width of the vision tower, N of the language model, bfloat16.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timing import Case, run

from llava_kit_kernels.ops.choices import Choice, choose
from llava_kit_kernels.ops.gemm import CANDIDATES, SMALL
from llava_kit_kernels.ops.linear_gelu import linear_gelu

# Name, rows, widths of vision tower and language model. A sample of LLaVA-1.5 has 576 rows, one of LLaVA-NeXT at 640x480 2,304.
CASES = [
    ("LLaVA-1.5-7B, B=1", 576, 1024, 4096),
    ("LLaVA-1.5-7B, B=8", 4608, 1024, 4096),
    ("LLaVA-1.5-7B, B=32", 18432, 1024, 4096),
    ("LLaVA-1.5-13B, B=8", 4608, 1024, 5120),
    ("LLaVA-NeXT-34B, B=8", 18432, 1024, 7168),
]
# Two roundings to bfloat16, of the product and of its activation, against one.
TOLERANCE = 2.0**-6


def make_cases(device: str, tiny: bool) -> Iterator[Case]:
    """For each size what the tables choose, then every tile."""
    for name, rows, vision, width in [("tiny", 40, 32, 48)] if tiny else CASES:
        x = torch.randn(rows, vision, device=device).bfloat16()
        weight = torch.randn(width, vision, device=device).mul_(vision**-0.5).bfloat16()
        bias = torch.randn(width, device=device).mul_(0.1).bfloat16()

        def peer(x=x, weight=weight, bias=bias):
            return F.gelu(F.linear(x, weight, bias))

        chosen = choose("linear_gelu", x.device, x.dtype, rows, width, vision)
        num_bytes = 2 * (rows * vision + width * vision + 2 * rows * width)
        for label, choice in [("chosen: ", chosen), *(("", Choice(tile)) for tile in ([SMALL] if tiny else CANDIDATES))]:

            def ours(x=x, weight=weight, bias=bias, choice=choice):
                return linear_gelu(x, weight, bias, "gelu", True, choice)[0]

            yield Case(f"{name}, {label}{choice}", ours, peer, num_bytes, TOLERANCE)


if __name__ == "__main__":
    sys.exit(run(__doc__, make_cases))
