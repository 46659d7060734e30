"""blend_rows against interpolate, max_pool2d and embedding_bag: canvases shrunk, frames pooled; forward, and with the gradient.

P pictures of H x W rows of D, bfloat16. interpolate and pooling are given channels-last pictures, a view of the rows.
embedding_bag with weights sums in float32, as the plain splicer calls it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timing import Case, run
from torch import Tensor

from llava_kit_kernels.ops.blend_rows import blend_rows

# Name, pictures, rows of a side before and after, width: a canvas of 3 x 3 tiles shrunk to fit 2 x 2; 32 frames of a clip.
SHRUNK = [("anyres_max_4, B=1", 1, 72, 48, 4096), ("anyres_max_4, B=8", 8, 72, 48, 4096)]
POOLED = [("32 frames", 32, 24, 12, 3584)]


def bilinear(before: int, after: int) -> tuple[Tensor, Tensor]:
    """Taps and weights [after^2, 4] of a square picture, as `interpolate` has them (align_corners=False)."""
    where = ((torch.arange(after) + 0.5) * before / after - 0.5).clamp(min=0)
    low = where.long()
    high, share = (low + 1).clamp(max=before - 1), where - low
    rows, columns = torch.stack([low, low, high, high], 1), torch.stack([low, high, low, high], 1)
    down, across = torch.stack([1 - share, 1 - share, share, share], 1), torch.stack([1 - share, share, 1 - share, share], 1)
    taps = rows[:, None] * before + columns[None]
    return taps.flatten(0, 1), (down[:, None] * across[None]).flatten(0, 1).float()


def pooling(before: int) -> tuple[Tensor, Tensor]:
    """Taps of 2 x 2 windows; their weights have no meaning."""
    taps = torch.arange(before * before).view(before // 2, 2, before // 2, 2).transpose(1, 2).reshape(-1, 4)
    return taps, torch.ones(taps.shape)


def make_lists(taps: Tensor, weights: Tensor, pictures: int, side: int, device: str) -> list[Tensor]:
    """Taps, weights, readers and their bounds, of all pictures."""
    taps = (taps + torch.arange(pictures)[:, None, None] * side * side).flatten(0, 1)
    order = taps.flatten().sort(stable=True)
    bounds = torch.searchsorted(order.values, torch.arange(pictures * side * side + 1))
    return [t.to(device) for t in (taps.int(), weights.repeat(pictures, 1), order.indices.int(), bounds.int())]


def make_cases(device: str, tiny: bool) -> Iterator[Case]:
    for name, pictures, before, after, width in [("tiny", 1, 6, 4, 64)] if tiny else SHRUNK:
        lists = make_lists(*bilinear(before, after), pictures, before, device)
        rows = torch.randn(pictures * before**2, width, device=device).bfloat16().requires_grad_()
        grad = torch.randn(pictures * after**2, width, device=device).bfloat16()
        num_bytes = (rows.numel() + grad.numel()) * 2

        def ours(rows=rows, lists=lists):
            return blend_rows(rows.detach(), *lists, reduce="sum")

        def interpolated(rows=rows, pictures=pictures, before=before, after=after):
            channels_last = rows.detach().view(pictures, before, before, -1).permute(0, 3, 1, 2)
            return F.interpolate(channels_last, size=(after, after), mode="bilinear").permute(0, 2, 3, 1).flatten(0, 2)

        def bag(rows=rows, lists=lists):
            return F.embedding_bag(lists[0], rows.float(), mode="sum", per_sample_weights=lists[1]).to(rows.dtype)

        def trained(rows=rows, lists=lists, grad=grad):
            return torch.autograd.grad(blend_rows(rows, *lists, reduce="sum"), rows, grad)[0]

        def bag_trained(rows=rows, grad=grad, bag=bag):
            return torch.autograd.grad(bag(), rows, grad)[0]

        yield Case(f"{name}: shrink, interpolate", ours, interpolated, num_bytes, tolerance=0.02)
        yield Case(f"{name}: shrink, embedding_bag", ours, lambda bag=bag: bag().detach(), num_bytes, tolerance=0.01)
        yield Case(f"{name}: shrink with gradient, embedding_bag", trained, bag_trained, 2 * num_bytes, tolerance=0.01)
    for name, pictures, before, after, width in [("tiny", 2, 4, 2, 64)] if tiny else POOLED:
        lists = make_lists(*pooling(before), pictures, before, device)
        rows = torch.randn(pictures * before**2, width, device=device).bfloat16()

        def greatest(rows=rows, lists=lists):
            return blend_rows(rows, *lists, reduce="max")

        def pooled(rows=rows, pictures=pictures, before=before):
            channels_last = rows.view(pictures, before, before, -1).permute(0, 3, 1, 2)
            return F.max_pool2d(channels_last, 2).permute(0, 2, 3, 1).flatten(0, 2)

        yield Case(f"{name}: max pooling", greatest, pooled, rows.numel() * 2 + pictures * after**2 * width * 2)


if __name__ == "__main__":
    sys.exit(run(__doc__, make_cases))
