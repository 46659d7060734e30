"""linear_scatter against F.linear and index_copy: the second layer of LLaVA's projector, its rows among those of the text.

M rows, K = N the width of the language model, bfloat16; 300 rows of text lie between the rows of two pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timing import Case, run

from llava_kit_kernels.ops.choices import Choice, choose
from llava_kit_kernels.ops.gemm import CANDIDATES, SMALL
from llava_kit_kernels.ops.linear_scatter import linear_scatter

# Name, rows, width. A sample of LLaVA-1.5 has 576 rows, one of LLaVA-NeXT at 640x480 2,304.
CASES = [
    ("LLaVA-1.5-7B, B=1", 576, 4096),
    ("LLaVA-1.5-7B, B=8", 4608, 4096),
    ("LLaVA-1.5-7B, B=32", 18432, 4096),
    ("LLaVA-1.5-13B, B=8", 4608, 5120),
    ("LLaVA-NeXT-34B, B=8", 18432, 7168),
]
# Both round to bfloat16 once; the sums before may differ in their last bit.
TOLERANCE = 2.0**-7
TEXT = 300


def make_cases(device: str, tiny: bool) -> Iterator[Case]:
    """For each size what the tables choose, then every tile."""
    for name, rows, width in [("tiny", 40, 48)] if tiny else CASES:
        x = torch.randn(rows, width, device=device).bfloat16()
        weight = torch.randn(width, width, device=device).mul_(width**-0.5).bfloat16()
        bias = torch.randn(width, device=device).mul_(0.1).bfloat16()
        row = torch.arange(rows, device=device)
        seats = row + (row // 576 + 1) * TEXT
        buffers = [torch.zeros(rows + (rows // 576 + 1) * TEXT, width, device=device, dtype=torch.bfloat16) for _ in range(2)]

        def peer(x=x, weight=weight, bias=bias, seats=seats, buffer=buffers[1]):
            return buffer.index_copy_(0, seats, F.linear(x, weight, bias))

        chosen = choose("linear_scatter", x.device, x.dtype, rows, width, width)
        num_bytes = 2 * (2 * rows * width + width * width)
        for label, choice in [("chosen: ", chosen), *(("", Choice(tile)) for tile in ([SMALL] if tiny else CANDIDATES))]:

            def ours(x=x, weight=weight, bias=bias, seats=seats, buffer=buffers[0], choice=choice):
                linear_scatter(x, weight, bias, seats, buffer, choice)
                return buffer

            yield Case(f"{name}, {label}{choice}", ours, peer, num_bytes, TOLERANCE)


if __name__ == "__main__":
    sys.exit(run(__doc__, make_cases))
