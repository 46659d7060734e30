"""C5: putting visual and text rows into one input, forward and backward, against transformers and against LLaVA's loop.

B rows of S positions, T = B * S, D width. Shapes: D=1024, float32, vocabulary 4,096; one picture a sample with text of 100 to
500 tokens; the features require a gradient and the embedding trains. No connector is in the clock: all three sides are given
projected rows. The plan is made beforehand, as a data worker does, and timed apart.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel, unpad_image

from llava_kit.core.connector import Connector
from llava_kit.core.tiles import Grid, TileGrid
from llava_kit.splice.build import IMAGE, Built, Seating, build_plan
from llava_kit.splice.layout import count_rows
from llava_kit.splice.reference import ReferenceSplicer

from .common import Report, Times, count_host_reads, count_operations, interleaved, parse_arguments, steady

WIDTH, VOCAB, IMAGE_TOKEN, IGNORE, TILE = 1024, 4096, 4095, -100, 336
SIDE = Grid(24, 24)
OVERVIEW = TileGrid((640, 480))
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
# Eight common pictures with the canvas that both LLaVA and transformers choose for them.
PICTURES = [
    TileGrid((640, 480), Grid(2, 2), merge="spatial_unpad"),
    TileGrid((640, 427), Grid(2, 2), merge="spatial_unpad"),
    TileGrid((1024, 768), Grid(2, 2), merge="spatial_unpad"),
    TileGrid((1920, 1080), Grid(2, 2), merge="spatial_unpad"),
    TileGrid((480, 640), Grid(2, 2), merge="spatial_unpad"),
    TileGrid((800, 400), Grid(1, 2), merge="spatial_unpad"),
    TileGrid((500, 2000), Grid(3, 1), merge="spatial_unpad"),
    TileGrid((672, 672), Grid(2, 2), merge="spatial_unpad"),
]


class Through(Connector):
    """The rows as they are."""

    rowwise = True

    def forward(self, features: Tensor) -> Tensor:
        return features


@dataclass
class Batch:
    """The same samples as each side wants them."""

    seatings: list[Seating]
    built: Built
    features: Tensor
    embedding: Tensor
    newline: Tensor | None
    placeholder_ids: Tensor
    """int64 [B, S]: one image token for each visual or newline row, as transformers' processor makes them."""
    image_sizes: Tensor
    """int64 [pictures, 2] (height, width), as transformers wants them on the device."""
    padded_ids: Tensor
    """int64 [B, n]: one IMAGE for each picture, as LLaVA's collator makes them."""
    padded_labels: Tensor
    side: Grid = SIDE

    @property
    def leaves(self) -> list[Tensor]:
        return [tensor for tensor in (self.features, self.embedding, self.newline) if tensor is not None]


def make_batch(grids: Sequence[TileGrid], *, side: Grid = SIDE, text: int | None = None, width: int = WIDTH) -> Batch:
    """One sample for each picture, with `text` tokens (default: 100 to 500)."""
    random = np.random.default_rng(0)
    seatings = []
    for number, grid in enumerate(grids):
        ids = random.integers(1, IMAGE_TOKEN, random.integers(100, 500) if text is None else text)
        ids = np.insert(ids, 20, IMAGE)
        trainable = np.arange(len(ids)) > len(ids) // 2
        seatings.append(Seating(ids, trainable, (grid,), str(number)))
    built = build_plan([[seating] for seating in seatings], side=side, vocab=VOCAB)
    placeholder_ids = torch.zeros(built.plan.shape, dtype=torch.int64)
    for number, seating in enumerate(seatings):
        counts = np.where(seating.token_ids == IMAGE, count_rows(seating.grids[0], side), 1)
        spread = np.repeat(np.where(seating.token_ids == IMAGE, IMAGE_TOKEN, seating.token_ids), counts)
        placeholder_ids[number, : len(spread)] = torch.from_numpy(spread)
    longest = max(len(seating.token_ids) for seating in seatings)
    ids = [F.pad(torch.from_numpy(s.token_ids), (0, longest - len(s.token_ids))) for s in seatings]
    labels = [torch.from_numpy(np.where(s.trainable, s.token_ids, IGNORE)) for s in seatings]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    return Batch(
        seatings,
        built,
        features=draw(built.plan.num_visual // side.area, side.area, width),
        embedding=draw(VOCAB, width),
        newline=draw(width) if any(grid.tiles.area for grid in grids) else None,
        placeholder_ids=placeholder_ids,
        image_sizes=torch.tensor([(grid.size[1], grid.size[0]) for grid in grids]),
        padded_ids=torch.stack(ids),
        padded_labels=torch.stack([F.pad(label, (0, longest - len(label)), value=IGNORE) for label in labels]),
        side=side,
    )


def ours(batch: Batch) -> Tensor:
    return ReferenceSplicer()(batch.built.plan, batch.features, Through(), batch.embedding, batch.newline)


def transformers_way(batch: Batch) -> Tensor:
    """As `LlavaModel.forward` and `LlavaNextModel.forward` of transformers 5.23 do it."""
    rows = F.embedding(batch.placeholder_ids, batch.embedding)
    if batch.newline is None:
        features = torch.cat(list(batch.features), dim=0)
    else:
        tiles = [grid.num_tiles for seating in batch.seatings for grid in seating.grids]
        vision = SimpleNamespace(image_size=TILE, patch_size=TILE // batch.side.rows)
        model = SimpleNamespace(config=SimpleNamespace(vision_config=vision, image_grid_pinpoints=PINPOINTS))
        pictures, _ = LlavaNextModel.pack_image_features(
            model,  # type: ignore[arg-type]
            torch.split(batch.features, tiles),
            batch.image_sizes,
            vision_feature_select_strategy="full",
            image_newline=batch.newline,
        )
        features = torch.cat(pictures, dim=0)
    mask = batch.placeholder_ids == IMAGE_TOKEN
    num_tokens = mask.sum()
    message = f"Image features and image tokens do not match, tokens: {num_tokens}, features: {features.shape[0]}"
    torch._check_tensor_all_with(ValueError, num_tokens * rows.shape[-1] == features.numel(), lambda: message)
    return rows.masked_scatter(mask.unsqueeze(-1), features)


def original_way(batch: Batch) -> Tensor:
    """LLaVA's `prepare_inputs_labels_for_multimodal`, written anew with the same tensor calls in the same order."""
    tiles = [grid.num_tiles for seating in batch.seatings for grid in seating.grids]
    if batch.newline is None:
        pictures = list(batch.features)
    else:
        grids = [grid for seating in batch.seatings for grid in seating.grids]
        split = torch.split(batch.features, tiles)
        pictures = [_merge_as_original(*picture, batch.side, batch.newline) for picture in zip(split, grids)]
    attended = batch.padded_ids != 0
    all_ids = [ids[mask] for ids, mask in zip(batch.padded_ids, attended)]
    all_labels = [labels[mask] for labels, mask in zip(batch.padded_labels, attended)]
    samples, sample_labels, picture = [], [], 0
    for ids, labels in zip(all_ids, all_labels):
        num_images = (ids == IMAGE).sum()
        if num_images == 0:
            samples.append(F.embedding(ids, batch.embedding))
            sample_labels.append(labels)
            continue
        places = [-1, *torch.where(ids == IMAGE)[0].tolist(), ids.shape[0]]
        texts = [ids[a + 1 : b] for a, b in pairwise(places)]
        text_labels = [labels[a + 1 : b] for a, b in pairwise(places)]
        embedded = torch.split(F.embedding(torch.cat(texts), batch.embedding), [len(text) for text in texts])
        parts, part_labels = [], []
        for i in range(num_images + 1):  # type: ignore[arg-type]
            parts.append(embedded[i])
            part_labels.append(text_labels[i])
            if i < num_images:
                parts.append(pictures[picture])
                part_labels.append(torch.full((pictures[picture].shape[0],), IGNORE, dtype=labels.dtype, device=labels.device))
                picture += 1
        samples.append(torch.cat(parts))
        sample_labels.append(torch.cat(part_labels))
    return _pad_as_original(samples, sample_labels, batch.embedding)


def _pad_as_original(samples: list[Tensor], sample_labels: list[Tensor], embedding: Tensor) -> Tensor:
    longest, device = max(len(sample) for sample in samples), embedding.device
    labels = torch.full((len(samples), longest), IGNORE, device=device)
    mask = torch.zeros(len(samples), longest, dtype=torch.bool, device=device)
    positions = torch.zeros(len(samples), longest, dtype=torch.int64, device=device)
    padded = []
    for i, (sample, sample_label) in enumerate(zip(samples, sample_labels)):
        length = sample.shape[0]
        filling = torch.zeros(longest - length, sample.shape[1], dtype=embedding.dtype, device=device)
        padded.append(torch.cat((sample, filling), dim=0))
        labels[i, :length] = sample_label
        mask[i, :length] = True
        positions[i, :length] = torch.arange(0, length, device=device)
    return torch.stack(padded, dim=0)


def _merge_as_original(tiles: Tensor, grid: TileGrid, side: Grid, newline: Tensor) -> Tensor:
    canvas = tiles[1:].view(*grid.tiles, *side, -1).permute(4, 0, 2, 1, 3).contiguous().flatten(1, 2).flatten(2, 3)
    canvas = unpad_image(canvas, (grid.size[1], grid.size[0]))
    canvas = torch.cat((canvas, newline[:, None, None].expand(*canvas.shape[:-1], 1)), dim=-1)
    return torch.cat((tiles[0], canvas.flatten(1, 2).transpose(0, 1)), dim=0)


WAYS: dict[str, Callable[[Batch], Tensor]] = {"ours": ours, "transformers": transformers_way, "original": original_way}


def step(way: Callable[[Batch], Tensor], batch: Batch) -> None:
    for leaf in batch.leaves:
        leaf.grad = None
    way(batch).sum().backward()


def compare(report: Report, name: str, batch: Batch) -> None:
    """Rows that are not padding, and gradients of all leaves for a random upstream gradient."""
    valid = torch.from_numpy(np.concatenate([_valid(batch, number) for number in range(len(batch.seatings))]))
    upstream = torch.randn(len(valid), WIDTH, generator=torch.Generator().manual_seed(1)) * valid[:, None]
    found = {}
    for way_name, way in WAYS.items():
        rows = way(batch).flatten(0, 1)
        found[way_name] = [rows.detach()[valid], *torch.autograd.grad(rows, batch.leaves, upstream)]
    for peer in ("transformers", "original"):
        pairs = list(zip(found["ours"], found[peer], strict=True))
        report.claim(f"{name}: rows equal those of {peer}", torch.equal(*pairs[0]))
        # The newline's gradient is a sum over some 270 rows, which the peers add up in another order.
        close = all(torch.allclose(a, b, rtol=1e-5, atol=1e-6 if i < 2 else 1e-4) for i, (a, b) in enumerate(pairs[1:]))
        report.claim(f"{name}: gradients equal those of {peer}", close)


def _valid(batch: Batch, number: int) -> np.ndarray:
    seating = batch.seatings[number]
    length = len(seating.token_ids) - 1 + count_rows(seating.grids[0], SIDE)
    return np.arange(batch.built.plan.shape[1]) < length


def count(report: Report, name: str, grids_of: Callable[[int], Sequence[TileGrid]]) -> None:
    seen = []
    for size in (1, 8, 32):
        batch = make_batch(grids_of(size))
        for way_name, way in WAYS.items():
            with count_host_reads() as reads, count_operations() as forward:
                rows = way(batch)
            with count_host_reads() as backward_reads, count_operations() as backward:
                rows.backward(torch.ones_like(rows))
            all_reads = reads.total() + forward.reads + backward_reads.total() + backward.reads
            if way_name == "ours":
                seen.append((forward.names, backward.names))
            limits = (6, 0) if way_name == "ours" else (None, None)
            report.figure(f"{name}: operations forward, B={size}, {way_name}", forward.total, at_most=limits[0])
            report.figure(f"{name}: operations backward, B={size}, {way_name}", backward.total)
            report.figure(f"{name}: host reads, B={size}, {way_name}", all_reads, at_most=limits[1])
    report.claim(f"{name}: our operations are the same for B = 1, 8, 32", seen[0] == seen[1] == seen[2])


def time_ways(report: Report, name: str, batch: Batch, rounds: int, targets: dict[str, float]) -> None:
    with torch.no_grad():
        forward = interleaved({key: lambda way=way: way(batch) for key, way in WAYS.items()}, rounds=rounds)
    both = interleaved({key: lambda way=way: step(way, batch) for key, way in WAYS.items()}, rounds=rounds)
    buffer = torch.empty(batch.built.plan.source.numel(), WIDTH)
    floor = interleaved({"copy": buffer.clone}, rounds=rounds)["copy"]
    report.figure(f"{name}: copy of the buffer, the floor of a forward pass", floor.median * 1e3, "ms")
    for what, times in (("forward", forward), ("forward + backward", both)):
        _figures(report, f"{name}: {what}", times, targets if times is both else {})


def _figures(report: Report, name: str, times: dict[str, Times], targets: dict[str, float]) -> None:
    for way, measured in times.items():
        report.figure(f"{name}, {way}, median", measured.median * 1e3, "ms")
        report.figure(f"{name}, {way}, minimum", measured.minimum * 1e3, "ms")
    for peer in ("transformers", "original"):
        report.figure(f"{name}, {peer} / ours", times[peer].median / times["ours"].median, "x", at_least=targets.get(peer))


def time_plans(report: Report, rounds: int) -> None:
    for name, grids, limit in (("LLaVA-1.5", [OVERVIEW] * 16, 60), ("AnyRes", PICTURES * 2, None)):
        seatings = make_batch(grids).seatings
        rows = [[seating] for seating in seatings]
        times = interleaved({"plan": lambda rows=rows: build_plan(rows, side=SIDE, vocab=VOCAB)}, rounds=20 * rounds)["plan"]
        report.figure(f"{name}: plan, B=16, a sample, median", times.median / len(rows) * 1e6, "us", at_most=limit)
        report.figure(f"{name}: plan, B=16, a sample, minimum", times.minimum / len(rows) * 1e6, "us")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(__doc__, argv)
    rounds = arguments.rounds or 15
    steady()
    report = Report("C5", "splice: rows of text and pictures into one input")
    one, anyres = make_batch([OVERVIEW] * 8), make_batch(PICTURES)
    compare(report, "LLaVA-1.5", one)
    compare(report, "AnyRes", anyres)
    time_ways(report, "LLaVA-1.5", one, rounds, {"transformers": 4.0, "original": 1.8})
    time_ways(report, "AnyRes", anyres, rounds, {})
    time_plans(report, rounds)
    del one, anyres
    count(report, "LLaVA-1.5", lambda size: [OVERVIEW] * size)
    count(report, "AnyRes", lambda size: (PICTURES * 4)[:size])
    return report.finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
