"""gather_rows against index_select, and its gradient against index_add: the kept rows of a tower's output with its class token.

N tiles of 577 rows, of which the first is the class token; K rows kept; D width. torch's side is given an index that counts the
class tokens, so that it copies nothing first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from timing import Case, run

from llava_kit_kernels.ops.gather_rows import gather_rows

# Name, tiles, share of the patches that unpad keeps (640x480 on 2x2 tiles and the overview: 4/5).
CASES = [
    ("LLaVA-1.5, B=1", 1, 1.0),
    ("LLaVA-1.5, B=8", 8, 1.0),
    ("LLaVA-1.5, B=32", 32, 1.0),
    ("LLaVA-NeXT, B=8", 40, 0.8),
]
WIDTH, PATCHES = 1024, 576


def make_cases(device: str, tiny: bool) -> Iterator[Case]:
    patches, width = (9, 64) if tiny else (PATCHES, WIDTH)
    for name, tiles, share in CASES[:1] if tiny else CASES:
        tower = torch.randn(tiles, patches + 1, width, device=device).bfloat16()
        num_kept = int(tiles * patches * share)
        index = torch.randperm(tiles * patches, device=device)[:num_kept].sort().values
        places = torch.full((tiles * patches,), -1, dtype=torch.int32, device=device)
        places[index] = torch.arange(num_kept, dtype=torch.int32, device=device)
        counted = index + index // patches + 1
        grad = torch.randn(num_kept, width, device=device).bfloat16()
        short = index.int()
        yield Case(
            f"{name}: forward",
            lambda tower=tower, short=short: gather_rows(tower[:, 1:], short),
            lambda tower=tower, counted=counted: tower.flatten(0, 1).index_select(0, counted),
            2 * num_kept * width * 2,
        )
        yield Case(
            f"{name}: gradient",
            lambda grad=grad, places=places: gather_rows(grad, places),
            lambda grad=grad, index=index, places=places: grad.new_zeros(len(places), width).index_add_(0, index, grad),
            (num_kept + tiles * patches) * width * 2,
        )


if __name__ == "__main__":
    sys.exit(run(__doc__, make_cases))
