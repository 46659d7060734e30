"""head_loss against torch's head and cross-entropy over the same supervised rows, forward and backward.

T = 16,384 rows of D, of which M = 2,949 are supervised (18 %, as in LLaVA's 665K mixture), V words, bfloat16. GB/s counts what
three products and one pass over the logits must read and write; for the time floor of the products see row G3, which has
transformers' own path and Liger's as peers too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timing import Case, run

from llava_kit_kernels.ops.head_loss import head_loss

# Name, words, width, softcap, whether the head trains.
CASES = [
    ("Llama 7B, V=32,000", 32_000, 4096, None, True),
    ("Llama 7B, V=32,003 (tokens were added)", 32_003, 4096, None, True),
    ("Llama 7B, V=32,000, head frozen (stage 1)", 32_000, 4096, None, False),
    ("Llama 3 8B, V=128,256", 128_256, 4096, None, True),
    ("Yi 34B, V=64,000", 64_000, 7168, None, True),
    ("Gemma 2 9B, V=256,000, capped", 256_000, 3584, 30.0, True),
]
ROWS, SUPERVISED = 16_384, 2_949


def make_cases(device: str, tiny: bool) -> Iterator[Case]:
    num_rows, num_targets = (24, 7) if tiny else (ROWS, SUPERVISED)
    for name, words, width, softcap, trains in [("tiny", 67, 64, 30.0, True)] if tiny else CASES:
        hidden = torch.randn(num_rows, width, device=device).bfloat16().requires_grad_()
        weight = (torch.randn(words, width, device=device) * width**-0.5).bfloat16().requires_grad_(trains)
        positions = torch.randperm(num_rows, device=device)[:num_targets].sort().values
        ids = torch.randint(0, words, (num_targets,), device=device)
        leaves = [hidden, weight] if trains else [hidden]

        def ours(hidden=hidden, weight=weight, positions=positions, ids=ids, softcap=softcap, leaves=leaves):
            return torch.autograd.grad(head_loss(hidden, positions, ids, weight, softcap=softcap), leaves)[-1]

        def peer(hidden=hidden, weight=weight, positions=positions, ids=ids, softcap=softcap, leaves=leaves):
            logits = F.linear(hidden[positions], weight)
            if softcap is not None:
                logits = softcap * torch.tanh(logits / softcap)
            return torch.autograd.grad(F.cross_entropy(logits.float(), ids, reduction="sum"), leaves)[-1]

        # The weight is read twice, its gradient written; logits are written, read twice, written and read as gradients.
        num_bytes = 2 * ((2 + trains) * words * width + (5 + trains) * num_targets * words + 4 * num_targets * width)
        yield Case(name, ours, peer, num_bytes, tolerance=2e-2)


if __name__ == "__main__":
    sys.exit(run(__doc__, make_cases))
