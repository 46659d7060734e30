"""Rows C1 and C2: from the bytes of a JPEG to normalised float32 tiles, against transformers and against the original's way.

N tiles of 336 x 336. Ours is the data worker's path and then the encoder's: guarded reader, `Tiler.cut`, `Encoder.normalise`.
C1 compares one tile a picture: `square` with transformers' CLIPImageProcessor (torchvision backend), `pad` with the algorithm
of LLaVA's `process_images`. C2 compares AnyRes with LlavaNextImageProcessor and with that of LLaVA's `process_anyres_image`.
Both of LLaVA's are written anew on CLIPImageProcessorPil, the numpy and Pillow class that the original calls. All open the file
themselves. The peers decode with Pillow; so do we, except with `simplejpeg` installed (`image/jpeg.py`), and then ours is timed
without it too.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution
from transformers.models.clip.image_processing_clip import CLIPImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from llava_kit.core.conversation import ImageBytes
from llava_kit.core.encoder import Encoder
from llava_kit.core.tiles import EncoderSpec, Grid, TileGrid
from llava_kit.image import jpeg as jpeg_decoder
from llava_kit.image.reader import read_pixels
from llava_kit.image.tiling import Tiler, TilingOptions

from .common import Report, interleaved, parse_arguments, steady
from .photos import SIZES, jpeg

TILE = 336
SPEC = EncoderSpec(
    image_size=TILE,
    grid=Grid(24, 24),
    width=1024,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
MEAN_COLOUR = (122, 116, 104)
PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
LIST_PINPOINTS = [list(entry) for entry in PINPOINTS]
TILES = {"size": {"shortest_edge": TILE}, "crop_size": {"height": TILE, "width": TILE}}
AS_BYTES = {"do_rescale": False, "do_normalize": False}
# Levels of 255 by which pixels may differ from those of Pillow: the greatest and the mean.
GREATEST, MEAN = 2.5, 0.05


class Normaliser(Encoder):
    """An encoder as far as its pixels."""

    spec = SPEC

    def forward(self, tiles: Tensor) -> Tensor:
        return self.normalise(tiles, torch.float32)


NORMALISER = Normaliser()


def opened(data: bytes) -> Image.Image:
    """The picture as the peers are given it."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def cut(data: bytes, tiler: Tiler) -> tuple[NDArray[np.uint8], TileGrid]:
    return tiler.cut(read_pixels(ImageBytes(data)))


def ours(data: bytes, tiler: Tiler) -> Tensor:
    """float32 [N, 3, 336, 336]"""
    return NORMALISER(torch.from_numpy(cut(data, tiler)[0]))


def by_pillow(way: Callable[[], object]) -> Callable[[], object]:
    """`way` as it is without `simplejpeg`."""

    def run() -> object:
        held, jpeg_decoder.simplejpeg = jpeg_decoder.simplejpeg, None
        try:
            return way()
        finally:
            jpeg_decoder.simplejpeg = held

    return run


def padded_to_square(picture: Image.Image) -> Image.Image:
    """The algorithm of LLaVA's `expand2square`."""
    width, height = picture.size
    longer = max(width, height)
    square = Image.new("RGB", (longer, longer), MEAN_COLOUR)
    square.paste(picture, ((longer - width) // 2, (longer - height) // 2))
    return square


def original_tiles(picture: Image.Image) -> list[Image.Image]:
    """The algorithm of LLaVA's `process_anyres_image` as far as its tiles; the overview first."""
    width, height = picture.size
    # transformers' function is the original's with heights first, in its arguments as in its list.
    canvas_height, canvas_width = select_best_resolution((height, width), [(height, width) for width, height in PINPOINTS])
    if canvas_width / width < canvas_height / height:
        size = canvas_width, min(int(np.ceil(height * canvas_width / width)), canvas_height)
    else:
        size = min(int(np.ceil(width * canvas_height / height)), canvas_width), canvas_height
    canvas = Image.new("RGB", (canvas_width, canvas_height), (0, 0, 0))
    canvas.paste(picture.resize(size), ((canvas_width - size[0]) // 2, (canvas_height - size[1]) // 2))
    corners = [(x, y) for y in range(0, canvas_height, TILE) for x in range(0, canvas_width, TILE)]
    return [picture.resize((TILE, TILE)), *(canvas.crop((x, y, x + TILE, y + TILE)) for x, y in corners)]


def original_anyres(picture: Image.Image, processor: CLIPImageProcessorPil) -> Tensor:
    tiles = [processor.preprocess(tile, return_tensors="pt")["pixel_values"][0] for tile in original_tiles(picture)]
    return torch.stack(tiles)


def apart(tiles: NDArray[np.uint8], theirs: NDArray) -> tuple[float, float]:
    """Levels of 255 between our bytes and the peer's: the greatest and the mean difference."""
    assert tiles.shape == theirs.shape, (tiles.shape, theirs.shape)
    levels = np.abs(tiles.astype(np.float64) - theirs)
    return float(levels.max()), float(levels.mean())


def check_pixels(report: Report, name: str, pairs: Sequence[tuple[float, float]]) -> None:
    """Claims over all sizes, and the differences as figures."""
    greatest, mean = max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
    report.figure(f"{name}: greatest difference", greatest, "of 255", at_most=GREATEST)
    report.figure(f"{name}: mean difference, worst picture", mean, "of 255", at_most=MEAN)
    report.claim(f"{name}: pixels within {GREATEST} of 255, {MEAN} in the mean", greatest <= GREATEST and mean <= MEAN)


Ways = dict[str, Callable[[], object]]


def time_ways(report: Report, name: str, ways: Ways, rounds: int, peers: dict[str, tuple[str, str]]) -> dict[str, float]:
    """Pictures a second of each way, and for each peer (label -> ours, theirs) the ratio of medians, which is returned."""
    times = interleaved(ways, rounds=rounds)
    for way, measured in times.items():
        report.figure(f"{name}: {way}, median", 1 / measured.median, "1/s")
        report.figure(f"{name}: {way}, best", 1 / measured.minimum, "1/s")
    ratios = {label: times[theirs].median / times[mine].median for label, (mine, theirs) in peers.items()}
    for label, ratio in ratios.items():
        report.figure(f"{name}: {label}", ratio, "x")
    return ratios


def geometric_means(report: Report, ratios: list[dict[str, float]], targets: dict[str, float | None], row: str = "") -> None:
    for label, target in targets.items():
        mean = float(np.exp(np.mean([np.log(ratio[label]) for ratio in ratios])))
        report.figure(f"{row}{label}, geometric mean", mean, "x", at_least=target)


def one_tile(report: Report, rounds: int) -> None:
    """C1."""
    torch_way, pillow_way = CLIPImageProcessor(**TILES), CLIPImageProcessorPil(**TILES)
    as_bytes = CLIPImageProcessorPil(**TILES, **AS_BYTES)
    square, pad = Tiler(SPEC, TilingOptions("square")), Tiler(SPEC, TilingOptions("pad"))
    peers = {
        "CLIPImageProcessor / ours": ("ours, square", "CLIPImageProcessor"),
        "original / ours, both padded": ("ours, pad", "original, pad"),
        "CLIPImageProcessor / ours by Pillow": ("ours, square by Pillow", "CLIPImageProcessor"),
        "CLIPImageProcessor / ours to uint8": ("ours, square to uint8", "CLIPImageProcessor"),
        "CLIPImageProcessor / reading alone": ("reading alone", "CLIPImageProcessor"),
    }
    squares, pads, ratios = [], [], []
    for size in SIZES:
        data = jpeg(*size)
        picture = opened(data)
        squares.append(apart(cut(data, square)[0], as_bytes(picture, return_tensors="np")["pixel_values"]))
        whole = as_bytes(padded_to_square(picture), return_tensors="np")["pixel_values"]
        pads.append(apart(cut(data, pad)[0], whole))
        ways: Ways = {
            "ours, square": lambda data=data: ours(data, square),
            "CLIPImageProcessor": lambda data=data: torch_way(opened(data), return_tensors="pt")["pixel_values"],
            "ours, pad": lambda data=data: ours(data, pad),
            "original, pad": lambda data=data: pillow_way(padded_to_square(opened(data)), return_tensors="pt")["pixel_values"],
            "ours, square by Pillow": by_pillow(lambda data=data: ours(data, square)),
            "ours, square to uint8": lambda data=data: cut(data, square),
            "reading alone": lambda data=data: read_pixels(ImageBytes(data)),
        }
        ratios.append(time_ways(report, f"{size[0]}x{size[1]}", ways, rounds, peers))
    targets = {
        "CLIPImageProcessor / ours": 1.7,
        "original / ours, both padded": 3.0,
        "CLIPImageProcessor / ours by Pillow": 1.35,
    }
    geometric_means(report, ratios, {label: targets.get(label) for label in peers}, "C1: ")
    check_pixels(report, "C1: square against CLIPImageProcessorPil", squares)
    check_pixels(report, "C1: pad against the original", pads)


def several_tiles(report: Report, rounds: int) -> None:
    """C2."""
    torch_way = LlavaNextImageProcessor(**TILES, image_grid_pinpoints=LIST_PINPOINTS)
    each = CLIPImageProcessorPil(**TILES)
    as_bytes = LlavaNextImageProcessorPil(**TILES, **AS_BYTES, image_grid_pinpoints=LIST_PINPOINTS)
    as_transformers = Tiler(SPEC, TilingOptions("anyres", PINPOINTS, rule="transformers"))
    as_llava = Tiler(SPEC, TilingOptions("anyres", PINPOINTS, rule="llava"))
    peers = {
        "LlavaNextImageProcessor / ours": ("ours", "LlavaNextImageProcessor"),
        "original / ours": ("ours", "original"),
        "LlavaNextImageProcessor / ours by Pillow": ("ours by Pillow", "LlavaNextImageProcessor"),
        "LlavaNextImageProcessor / ours to uint8": ("ours to uint8", "LlavaNextImageProcessor"),
    }
    next_pairs, original_pairs, ratios, grids = [], [], [], True
    for size in (*SIZES, (300, 900)):
        data = jpeg(*size)
        picture = opened(data)
        tiles, grid = cut(data, as_transformers)
        theirs = as_bytes(picture, return_tensors="np")["pixel_values"][0]
        next_pairs.append(apart(tiles, theirs))
        canvas = select_best_resolution((size[1], size[0]), LIST_PINPOINTS)
        grids &= grid.tiles == (canvas[0] // TILE, canvas[1] // TILE)
        theirs = np.stack([np.asarray(tile).transpose(2, 0, 1) for tile in original_tiles(picture)])
        original_pairs.append(apart(cut(data, as_llava)[0], theirs))
        ways: Ways = {
            "ours": lambda data=data: ours(data, as_transformers),
            "LlavaNextImageProcessor": lambda data=data: torch_way(opened(data), return_tensors="pt")["pixel_values"],
            "original": lambda data=data: original_anyres(opened(data), each),
            "ours by Pillow": by_pillow(lambda data=data: ours(data, as_transformers)),
            "ours to uint8": lambda data=data: cut(data, as_transformers),
        }
        ratios.append(time_ways(report, f"AnyRes {size[0]}x{size[1]}", ways, rounds, peers))
    targets = {"LlavaNextImageProcessor / ours": 1.35, "original / ours": 3.3}
    geometric_means(report, ratios, {label: targets.get(label) for label in peers}, "C2: ")
    check_pixels(report, "C2: against LlavaNextImageProcessorPil", next_pairs)
    check_pixels(report, "C2: against the original", original_pairs)
    report.claim("C2: as many rows and columns of tiles as LlavaNextImageProcessor", grids)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(__doc__, argv)
    steady()
    report = Report("C1, C2", "bytes of a JPEG to normalised float32 tiles")
    one_tile(report, arguments.rounds or 9)
    several_tiles(report, arguments.rounds or 9)
    return report.finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
