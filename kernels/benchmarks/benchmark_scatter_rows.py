"""scatter_rows against index_copy: projected rows to their seats.

K rows of D to seats among T, bfloat16.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from timing import Case, run

from llava_kit_kernels.ops.scatter_rows import scatter_rows

# Name, samples, visual rows of each, newlines of each, width; text is 300 a sample.
CASES = [
    ("LLaVA-1.5-7B, B=1", 1, 576, 0, 4096),
    ("LLaVA-1.5-7B, B=8", 8, 576, 0, 4096),
    ("LLaVA-1.5-7B, B=32", 32, 576, 0, 4096),
    ("LLaVA-NeXT-7B, B=8", 8, 2304, 36, 4096),
    ("LLaVA-NeXT-34B, B=8", 8, 2304, 36, 7168),
]
TEXT = 300


def make_cases(device: str, tiny: bool) -> Iterator[Case]:
    for name, samples, visual, newlines, width in [("tiny", 1, 9, 3, 64)] if tiny else CASES:
        num_rows = samples * visual
        num_seats = num_rows + samples * newlines + samples * (2 if tiny else TEXT)
        seats = torch.randperm(num_seats, device=device)[:num_rows].sort().values
        rows = torch.randn(num_rows, width, device=device).bfloat16()
        buffers = [torch.zeros(num_seats, width, device=device, dtype=torch.bfloat16) for _ in range(2)]

        def scatter(rows=rows, seats=seats, buffer=buffers[0]):
            scatter_rows(rows, seats, buffer)
            return buffer

        def peer_scatter(rows=rows, seats=seats, buffer=buffers[1]):
            return buffer.index_copy_(0, seats, rows)

        yield Case(f"{name}: visual rows", scatter, peer_scatter, 2 * num_rows * width * 2)


if __name__ == "__main__":
    sys.exit(run(__doc__, make_cases))
