"""The splicer and the loss as a whole against plain torch on this device: only what won is what `auto` takes.

`llava-kit kernels tune` runs it before the products. The shapes are those of LLaVA-1.5 7B: eight samples of one picture (576
rows of 1,024 to 4,096) and 300 text rows; a head of 32,064 words with a fifth of the rows supervised. Forward and backward;
projector, table and head train.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops import measurements
from .ops.choices import describe
from .ops.gather_rows import gather_rows
from .ops.head_loss import head_loss
from .ops.project_rows import Projector, project_rows
from .ops.seat_rows import Fixed
from .ops.tune import LEAST_GAIN, MOST_ERROR, Timer, time_on_gpu

PARTS = ("splicer", "loss")
KIND = "parts"


class Size(NamedTuple):
    """B samples of P patches [P, E] and X text rows each; rows of D, a vocabulary of V, one row in five supervised."""

    samples: int = 8
    patches: int = 576
    text: int = 300
    vision_width: int = 1024
    width: int = 4096
    vocab: int = 32064


Ways = dict[str, Callable[[], list[Tensor]]]
"""Forward and backward by name (`ours`, `torch`, and in float64 `exact`): the result and the gradients."""


def contest(
    device: torch.device | None = None,
    size: Size | None = None,
    dtype: torch.dtype = torch.bfloat16,
    report: Callable[[str], object] = lambda line: None,
    *,
    timer: Timer = time_on_gpu,
) -> dict[str, float]:
    """How many times as fast as plain torch each part is here, 0 where it was wrong; written to the user's verdicts."""
    device = device or _current()
    assert device is not None
    size = size or Size()
    ratios = {}
    with torch.cuda.device_of(torch.empty(0, device=device)):  # the timer looks at the current device
        for part, make in zip(PARTS, (splicer_ways, loss_ways)):
            ways = make(device, dtype, size)
            wrong = _wrong(ways)
            if wrong is None:
                times: dict[Any, float] = timer({name: ways[name] for name in ("ours", "torch")})
                ratios[part] = times["torch"] / times["ours"]
                report(f"{part}: {times['ours']:,.0f} us, torch {times['torch']:,.0f} us: {ratios[part]:.2f} times as fast")
            else:
                ratios[part] = 0.0
                report(f"{part}: {wrong}; it will not be chosen")
    save(device, ratios)
    return ratios


def measured(part: str, device: torch.device | None = None) -> str | None:
    """Why `auto` takes `part` on `device` (None: the current CUDA device), in one line; None if it did not win there."""
    device = device or _current()
    verdict = None if device is None else read(device).get(part)
    if device is None or verdict is None or verdict["ratio"] <= LEAST_GAIN:
        return None
    where = f"{measurements.device_name(device)}, measured on {verdict['date']}"
    return f"{verdict['ratio']:.2f} times as fast as plain torch on {where}"


def described(part: str, device: torch.device | None = None) -> list[str]:
    """For `llava-kit env`: what was measured, and what was chosen for the products inside the splicer."""
    device = device or _current()
    if device is None:
        return []
    verdict = read(device).get(part)
    if verdict is None:
        line = "not measured on this device: `auto` takes the reference; `llava-kit kernels tune` measures"
    else:
        line = measured(part, device) or f"{verdict['ratio']:.2f} times as fast as plain torch: `auto` takes the reference"
    return [line, *(describe(device) if part == "splicer" else [])]


def _current() -> torch.device | None:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None


def read(device: torch.device) -> dict[str, dict[str, Any]]:
    """Ratio and date of each part on this device; the user's own measurement comes before a shipped one."""
    found: dict[str, dict[str, Any]] = {}
    for _, path, content in measurements.read_all(device, KIND):
        try:
            found |= {part: {"ratio": float(of["ratio"]), "date": str(of["date"])} for part, of in content["parts"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            measurements.refuse(path, error)
    return found


def save(device: torch.device, ratios: dict[str, float]) -> None:
    """Adds ratios to the user's measurements of this device."""
    today = datetime.date.today().isoformat()
    parts = {part: {"ratio": round(ratio, 3), "date": today} for part, ratio in ratios.items()}
    measurements.write(device, KIND, {"parts": {**read(device), **parts}})


def _wrong(ways: Ways) -> str | None:
    """What is off from float64 by more than 1.5 times what plain torch is off, and by more than a rounding of its own."""
    exact = ways["exact"]()
    for number, (ours, theirs, right) in enumerate(zip(ways["ours"](), ways["torch"](), exact, strict=True)):
        errors = [float((found.double() - right).detach().abs().max()) for found in (ours, theirs)]
        allowed = MOST_ERROR * errors[1] + torch.finfo(ours.dtype).eps * float(right.abs().max())
        if not errors[0] <= allowed:
            return f"result {number} is off by {errors[0]:.3g}, torch's by {errors[1]:.3g}"
    return None


def splicer_ways(device: torch.device, dtype: torch.dtype, size: Size) -> Ways:
    """Projector and splice: ours, and gather, linear, GELU, linear and additions into zeros by torch."""
    length = size.patches + size.text
    total = size.samples * length
    draw = _drawer(device, dtype)
    tower = draw(size.samples, size.patches + 1, size.vision_width)[:, 1:]
    scales = (size.vision_width**-0.5, 0.1, size.width**-0.5, 0.1)
    shapes = ((size.width, size.vision_width), (size.width,), (size.width, size.width), (size.width,))
    weight_1, bias_1, weight_2, bias_2 = weights = [
        draw(*shape, scale=scale, trains=True) for shape, scale in zip(shapes, scales)
    ]
    projector = Projector(weight_1, bias_1, weight_2, bias_2, "gelu")
    table = draw(size.vocab, size.width, trains=True)
    upstream = draw(total, size.width)
    seats = torch.arange(total, device=device).view(size.samples, length)
    visual, text = seats[:, : size.patches].flatten(), seats[:, size.patches :].flatten()
    ids = torch.randint(size.vocab, text.shape, device=device, generator=_generator(device))
    none = torch.empty(0, dtype=torch.int32, device=device)
    fixed = Fixed(ids, text, *_grouped(ids, text), none, none)
    places = torch.arange(size.samples * size.patches, device=device, dtype=torch.int32)

    def ours() -> list[Tensor]:
        x = gather_rows(tower, places, places)
        return _run(lambda: project_rows(x, projector, visual, table, None, fixed, total), [*weights, table], upstream)

    def plain(leaves: list[Tensor], tower: Tensor, upstream: Tensor) -> list[Tensor]:
        def forward() -> Tensor:
            hidden = F.gelu(F.linear(tower.flatten(0, 1), leaves[0], leaves[1]))
            rows = leaves[4].new_zeros(total, size.width)
            rows = rows.index_add(0, text, F.embedding(ids, leaves[4]))
            return rows.index_add(0, visual, F.linear(hidden, leaves[2], leaves[3]))

        return _run(forward, leaves, upstream)

    exact = [leaf.detach().double().requires_grad_() for leaf in (*weights, table)]
    return {
        "ours": ours,
        "torch": lambda: plain([*weights, table], tower, upstream),
        "exact": lambda: plain(exact, tower.double(), upstream.double()),
    }


def loss_ways(device: torch.device, dtype: torch.dtype, size: Size) -> Ways:
    """Head and cross-entropy over the supervised rows: ours, and selection, linear and cross-entropy by torch."""
    total = size.samples * (size.patches + size.text)
    draw = _drawer(device, dtype)
    hidden, head = draw(total, size.width, trains=True), draw(size.vocab, size.width, scale=size.width**-0.5, trains=True)
    positions = torch.arange(0, total, 5, device=device)
    ids = torch.randint(size.vocab, positions.shape, device=device, generator=_generator(device))
    one = torch.ones((), device=device)

    def plain(hidden: Tensor, head: Tensor) -> list[Tensor]:
        def forward() -> Tensor:
            logits = F.linear(hidden.index_select(0, positions), head)
            return F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), ids, reduction="sum")

        return _run(forward, [hidden, head], one.to(torch.float64) if hidden.dtype == torch.float64 else one)

    exact = [leaf.detach().double().requires_grad_() for leaf in (hidden, head)]
    return {
        "ours": lambda: _run(lambda: head_loss(hidden, positions, ids, head), [hidden, head], one),
        "torch": lambda: plain(hidden, head),
        "exact": lambda: plain(*exact),
    }


def _run(forward: Callable[[], Tensor], leaves: list[Tensor], upstream: Tensor) -> list[Tensor]:
    result = forward()
    return [result.detach(), *torch.autograd.grad(result, leaves, upstream)]


def _grouped(ids: Tensor, seats: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The lists of `Fixed` for the table's gradient, one group for each token."""
    order = torch.argsort(ids, stable=True)
    tokens, counts = torch.unique_consecutive(ids[order], return_counts=True)
    bounds = F.pad(counts.cumsum(0), (1, 0))
    each = torch.arange(len(tokens) + 1, device=ids.device)
    return seats[order].int(), bounds.int(), each.int(), tokens.int()


def _drawer(device: torch.device, dtype: torch.dtype) -> Callable[..., Tensor]:
    generator = _generator(device)

    def draw(*shape: int, scale: float = 1.0, trains: bool = False) -> Tensor:
        drawn = torch.randn(*shape, device=device, generator=generator) * scale
        return drawn.to(dtype).requires_grad_(trains)

    return draw


def _generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)
