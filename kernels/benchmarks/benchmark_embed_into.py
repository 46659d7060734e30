"""embed_into against embedding and index_copy, and embed_gradient against torch's gradient of the embedding.

X text rows, 300 a sample, among T seats; a table of 32,064 rows of D, bfloat16. Half of the ids are a few common ones.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from timing import Case, run

from llava_kit.splice.inverse import invert
from llava_kit_kernels.ops.embed_into import embed_gradient, embed_into

# Name, samples, visual rows of each, width.
CASES = [
    ("LLaVA-1.5-7B, B=1", 1, 576, 4096),
    ("LLaVA-1.5-7B, B=8", 8, 576, 4096),
    ("LLaVA-1.5-7B, B=32", 32, 576, 4096),
    ("LLaVA-1.5-13B, B=8", 8, 576, 5120),
    ("LLaVA-NeXT-34B, B=8", 8, 2340, 7168),
]
TEXT, VOCAB, COMMON = 300, 32064, 40


def make_cases(device: str, tiny: bool) -> Iterator[Case]:
    for name, samples, visual, width in [("tiny", 1, 20, 64)] if tiny else CASES:
        num_text, vocab = (12, 50) if tiny else (samples * TEXT, VOCAB)
        num_seats = num_text + samples * visual
        ids = torch.where(torch.rand(num_text) < 0.5, torch.randint(COMMON, (num_text,)), torch.randint(vocab, (num_text,)))
        seats = torch.randperm(num_seats)[:num_text].sort().values
        none = np.zeros(0, np.int64)
        lists = invert(none.astype(np.int32), ids.numpy(), seats.numpy(), none, (), 0)
        inverse = [t.to(device) for t in (lists.text_seats, lists.group_bounds, lists.token_bounds, lists.tokens)]
        ids, seats = ids.to(device), seats.to(device)
        table = torch.randn(vocab, width, device=device).bfloat16()
        buffers = [torch.zeros(num_seats, width, device=device, dtype=torch.bfloat16) for _ in range(2)]
        grad = torch.randn(num_seats, width, device=device).bfloat16()

        def forward(table=table, ids=ids, seats=seats, buffer=buffers[0]):
            embed_into(table, ids, seats, buffer)
            return buffer

        def peer_forward(table=table, ids=ids, seats=seats, buffer=buffers[1]):
            return buffer.index_copy_(0, seats, F.embedding(ids, table))

        def backward(grad=grad, inverse=inverse, vocab=vocab):
            return embed_gradient(grad, *inverse, vocab=vocab, dtype=torch.bfloat16)

        def peer_backward(grad=grad, ids=ids, seats=seats, vocab=vocab):
            return torch.ops.aten.embedding_dense_backward(grad.index_select(0, seats), ids, vocab, -1, False)

        yield Case(f"{name}: forward", forward, peer_forward, 2 * num_text * width * 2)
        # torch adds in bfloat16 on the CPU: a tolerance of a few of its units.
        num_bytes = (num_text + vocab) * width * 2
        yield Case(f"{name}: gradient", backward, peer_backward, num_bytes, tolerance=0.02)


if __name__ == "__main__":
    sys.exit(run(__doc__, make_cases))
