"""A battery of plans for whoever writes a splicer: the shapes, packings and frozen parts on which one goes wrong.

N tiles, P patches a tile, P' visual rows a tile, B rows of S positions, T = B * S, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.connector import Connector, MlpWeights
from ..core.splice import SplicePlan
from ..core.tiles import ClipGrid, Grid, TileGrid
from ..splice.build import IMAGE, Seating, build_plan
from ..splice.fixed import fill_up

VOCAB = 53  # small, so that tokens repeat and their gradients add up


@dataclass
class Parts:
    """What a splicer is given besides the plan. `trained` are the tensors that must receive a gradient, by name."""

    features: Tensor
    connector: Connector
    embedding: nn.Parameter
    newline: nn.Parameter | None
    trained: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One situation: a plan, and how to make the parts that go with it.

    `connector(vision_width, text_width)` makes the connector. `frozen` names what does not train: `features`, `connector`,
    `embedding`, `newline`. `features_dtype` differs from the model's where the tower runs in another precision. `class_token`:
    the features are a view that skips one row of each tile, as towers hand them out.
    """

    name: str
    plan: SplicePlan
    patches: Grid
    connector: Callable[[int, int], Connector]
    vision_width: int = 24
    text_width: int = 32
    newline: bool = True
    frozen: frozenset[str] = frozenset()
    features_dtype: torch.dtype | None = None
    class_token: bool = False

    @property
    def num_tiles(self) -> int:
        return self.plan.num_visual // self.rows_per_tile

    @property
    def rows_per_tile(self) -> int:
        return self.connector(self.vision_width, self.text_width).output_grid(self.patches).area

    def parts(self, dtype: torch.dtype, device: torch.device | str) -> Parts:
        """Fresh random parts, the same at each call."""
        random = torch.Generator().manual_seed(0)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.randn(*shape, generator=random) * scale

        connector = self.connector(self.vision_width, self.text_width)
        with torch.no_grad():
            for parameter in connector.parameters():
                parameter.copy_(draw(*parameter.shape, scale=parameter.shape[-1] ** -0.5))
        connector.to(device=device, dtype=dtype).requires_grad_("connector" not in self.frozen)
        skipped = int(self.class_token)
        stored = draw(self.num_tiles, skipped + self.patches.area, self.vision_width)
        features = stored.to(device=device, dtype=self.features_dtype or dtype)[:, skipped:]
        features.requires_grad_("features" not in self.frozen)
        embedding = nn.Parameter(draw(VOCAB, self.text_width).to(device, dtype), "embedding" not in self.frozen)
        row = nn.Parameter(draw(self.text_width).to(device, dtype), "newline" not in self.frozen)
        newline = row if self.newline else None

        named = {"features": features, "embedding": embedding, "newline": newline}
        named |= {f"connector.{name}": parameter for name, parameter in connector.named_parameters()}
        trained = {name: tensor for name, tensor in named.items() if tensor is not None and tensor.requires_grad}
        return Parts(features, connector, embedding, newline, trained)


class Mlp(Connector):
    """Linear, activation, linear, for each patch alone: the connector a kernel may take over."""

    rowwise = True

    def __init__(self, vision_width: int, text_width: int, *, bias: bool = True, activation: str = "gelu"):
        super().__init__()
        self.first = nn.Linear(vision_width, text_width, bias=bias)
        self.second = nn.Linear(text_width, text_width, bias=bias)
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        return self.second(getattr(F, self.activation)(self.first(features)))

    def mlp(self) -> MlpWeights:
        return MlpWeights(self.first.weight, self.first.bias, self.second.weight, self.second.bias, self.activation)


class Line(Connector):
    """One linear map for each patch alone; `mlp()` is None."""

    rowwise = True

    def __init__(self, vision_width: int, text_width: int):
        super().__init__()
        self.line = nn.Linear(vision_width, text_width)

    def forward(self, features: Tensor) -> Tensor:
        return self.line(features)


class Halving(Connector):
    """The mean of each two neighbours in a line, then a linear map: rows that are not one patch alone."""

    def __init__(self, vision_width: int, text_width: int):
        super().__init__()
        self.line = nn.Linear(vision_width, text_width)

    def forward(self, features: Tensor) -> Tensor:
        return self.line(features.unflatten(1, (-1, 2)).mean(2))

    def output_grid(self, grid: Grid) -> Grid:
        return Grid(grid.rows, grid.cols // 2)


class Summary(Connector):
    """Three rows a tile, each a learnt mixture of all its patches: a resampler."""

    spatial = False

    def __init__(self, vision_width: int, text_width: int):
        super().__init__()
        self.questions = nn.Parameter(torch.zeros(3, vision_width))
        self.line = nn.Linear(vision_width, text_width)

    def forward(self, features: Tensor) -> Tensor:
        return self.line((features @ self.questions.T).softmax(1).transpose(1, 2) @ features)

    def output_grid(self, grid: Grid) -> Grid:
        return Grid(1, 3)


class Through(Connector):
    """The features as they are: a connector without parameters."""

    rowwise = True

    def __init__(self, vision_width: int, text_width: int):
        super().__init__()

    def forward(self, features: Tensor) -> Tensor:
        return features


OVERVIEW = TileGrid((640, 480))
WIDE = TileGrid((640, 300), Grid(2, 2), merge="spatial_unpad")
TALL = TileGrid((100, 470), Grid(3, 1), merge="spatial_unpad")
WHOLE = TileGrid((640, 300), Grid(1, 2))


SHRUNK = TileGrid((640, 500), Grid(3, 3), "spatial_unpad", max_tiles=2)


def _sequence(text: int, *grids: TileGrid | ClipGrid, first: int = 1) -> Seating:
    """`text` random tokens; the pictures stand one after another from token `first` on."""
    ids = np.random.default_rng(text).integers(0, VOCAB, text)
    ids = np.insert(ids, min(first, text), [IMAGE] * len(grids))
    return Seating(ids, np.zeros(len(ids), bool), grids, f"{text} tokens")


def _plan(rows: Sequence[Sequence[Seating]], side: Grid, num_tiles: int | None = None, length: int | None = None) -> SplicePlan:
    return build_plan(rows, side=side, vocab=VOCAB, num_tiles=num_tiles, length=length).plan


def _filled(rows: Sequence[Sequence[Seating]], side: Grid, *, newlines: bool = True, **sizes: int) -> SplicePlan:
    return fill_up(build_plan(rows, side=side, vocab=VOCAB, **sizes), newlines=newlines).plan


def battery() -> list[Case]:
    """All cases, small enough to run on a CPU in seconds."""
    square, oblong = Grid(4, 4), Grid(3, 4)
    one = [[_sequence(17, OVERVIEW)], [_sequence(5, OVERVIEW)], [_sequence(30, OVERVIEW, first=30)]]
    anyres = [[_sequence(9, WIDE, first=0)], [_sequence(23, TALL, first=4)], [_sequence(6, WHOLE)]]
    packed = [[_sequence(3), _sequence(8, TALL, OVERVIEW), _sequence(4, WIDE)], [_sequence(40), _sequence(2, OVERVIEW)], []]
    text = [[_sequence(12)], [_sequence(7)]]
    clips = [ClipGrid(3, "average", "frame"), ClipGrid(2, "bilinear", "grid"), ClipGrid(2, "max", "one_token")]
    blended = [[_sequence(9, SHRUNK, TALL), _sequence(4, clips[0])], [_sequence(7, clips[1], OVERVIEW, clips[2])]]
    widths = [(1, 1), (41, 341), (341, 41), (1, 41), (64, 128)]
    cases = [
        Case(f"anyres_{vision}_{width}", _plan(anyres, oblong, 14), oblong, Mlp, vision, width) for vision, width in widths
    ]
    anyres_plan, packed_plan = _plan(anyres, square), _plan(packed, square, num_tiles=16, length=200)
    cases += [
        Case("padded", _plan(one, square), square, Mlp, newline=False),
        Case("newline_unused", _plan(one, square, num_tiles=4), square, Mlp),
        Case("packed", packed_plan, square, Mlp),
        Case("packed_line", packed_plan, square, Line),
        Case("packed_through", packed_plan, square, Through, 32, 32),
        Case("text_only", _plan(text, square, num_tiles=2), square, Mlp),
        Case("text_only_no_tiles", _plan(text, square), square, Mlp),
        Case("text_only_halving", _plan(text, Grid(4, 2), num_tiles=2), square, Halving),
        Case("picture_only", _plan([[_sequence(0, OVERVIEW, OVERVIEW)]], square), square, Mlp, newline=False),
        Case("many_pictures", _plan([[_sequence(3, *[OVERVIEW] * 37)]], Grid(1, 1)), Grid(1, 1), Mlp),
        Case("halving", _plan(anyres, Grid(4, 2), num_tiles=12), square, Halving),
        Case("summary", _plan(one, Grid(1, 3), num_tiles=4), square, Summary, newline=False),
        Case("no_bias", anyres_plan, square, lambda vision, width: Mlp(vision, width, bias=False)),
        Case("other_activation", anyres_plan, square, lambda vision, width: Mlp(vision, width, activation="silu")),
        Case("class_token", anyres_plan, square, Mlp, class_token=True),
        Case("coarse_tower", anyres_plan, square, Mlp, features_dtype=torch.bfloat16),
        Case("shrunk", _plan([[_sequence(5, SHRUNK)], [_sequence(3, SHRUNK)]], square), square, Mlp),
        Case("clips", _plan([[_sequence(3, clip)] for clip in clips], Grid(3, 3), 9), Grid(3, 3), Mlp),
        Case("blended", _plan(blended, square, num_tiles=24), square, Mlp),
        Case("blended_line", _plan(blended, oblong), oblong, Line, 41, 341),
        Case("blended_halving", _plan(blended, Grid(4, 2)), square, Halving),
        Case("blended_through", _plan(blended, square), square, Through, 32, 32),
        Case("blended_coarse_tower", _plan(blended, square), square, Mlp, features_dtype=torch.bfloat16),
        Case("blended_frozen_features", _plan(blended, square), square, Mlp, frozen=frozenset({"features"})),
        Case("filled_packed", _filled(packed, square, num_tiles=16), square, Mlp),
        Case("filled_line", _filled(packed, oblong, num_tiles=14), oblong, Line, 41, 341),
        Case("filled_through", _filled(packed, square, num_tiles=16), square, Through, 32, 32),
        Case("filled_padded", _filled(one, square, newlines=False), square, Mlp, newline=False),
        Case("filled_newlines_unused", _filled(one, square, num_tiles=4), square, Mlp),
        Case("filled_text_only", _filled([*text, []], square, num_tiles=4), square, Mlp),
        Case("filled_halving", _filled(anyres, Grid(4, 2), num_tiles=12), square, Halving),
        Case("filled_blended", _filled(blended, square, num_tiles=24), square, Mlp),
        Case("filled_frozen_embedding", _filled(packed, square), square, Mlp, frozen=frozenset({"embedding"})),
    ]
    everything = frozenset({"features", "connector", "embedding", "newline"})
    cases += [Case(f"frozen_{name}", anyres_plan, square, Mlp, frozen=frozenset({name})) for name in sorted(everything)]
    cases += [Case(f"only_{name}", anyres_plan, square, Mlp, frozen=everything - {name}) for name in sorted(everything)]
    return [*cases, Case("all_frozen", anyres_plan, square, Mlp, frozen=everything)]
