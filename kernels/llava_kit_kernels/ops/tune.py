"""Measures where a tile of a fused kernel beats cuBLAS and the small kernels on this device; the user's table keeps what won.

`llava-kit kernels tune` runs it by hand; no step of a model ever does. A candidate must first be right: its error against
float64 is 1.5 times that of torch at most. It must then be faster by more than 2 %, else cuBLAS stays. M rows, weights [N, K].
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from triton.errors import TritonError

from . import choices
from .choices import BUCKETS, CUBLAS, OPS, PICTURE_ROWS, Choice, Key, Table, bucket
from .clock import event_times
from .common import KernelInputError
from .gemm import CANDIDATES, Tile
from .linear_dgelu import linear_dgelu
from .linear_gelu import linear_gelu
from .linear_scatter import linear_scatter

# Widths of CLIP-L and SigLIP-so400m, and of language models of 7, 13 and 34 thousand million parameters.
VISION_WIDTHS = (1024, 1152)
TEXT_WIDTHS = (4096, 5120, 7168)
MOST_ERROR = 1.5
# Below this a difference is no reason to leave the default.
LEAST_GAIN = 1.02
ROUNDS, WARM_UP = 20, 3
# Rows whose results are compared with float64, at each end: all rows of a large batch would take longer than to measure them.
CHECKED_ROWS = PICTURE_ROWS

Timer = Callable[[dict[Any, Callable[[], Any]]], dict[Any, float]]
"""Microseconds of each call, by whatever they are called."""


class Shape(NamedTuple):
    """One operation at one size."""

    op: str
    m: int
    n: int
    k: int

    def __str__(self) -> str:
        return f"{self.op} {self.m}x{self.n}x{self.k}"


@dataclass(frozen=True)
class Problem:
    """An operation with its inputs."""

    run: Callable[[Choice], Any]
    error: Callable[[Choice], float]
    """Largest difference from float64 over the checked rows."""


def llava_shapes() -> list[Shape]:
    """Both layers of LLaVA's projectors, forward and backward, from one picture to a full batch of tiles."""
    shapes = [Shape("linear_gelu", rows, text, vision) for text in TEXT_WIDTHS for vision in VISION_WIDTHS for rows in BUCKETS]
    return shapes + [Shape(op, rows, text, text) for op in OPS[1:] for text in TEXT_WIDTHS for rows in BUCKETS]


def tune(
    shapes: Iterable[Shape] | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.bfloat16,
    report: Callable[[str], object] = lambda line: None,
    *,
    timer: Timer | None = None,
    tiles: Iterable[Tile] = CANDIDATES,
) -> Table:
    """Measures `shapes` (None: `llava_shapes()`), adds what won to the user's table, and gives what it added.

    `report` gets a line for each shape; `timer` gives microseconds, by default of the GPU. Each shape is kept as soon as it is
    measured. Raises `KernelInputError`: float32 has no candidate.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        raise KernelInputError(f"{dtype} has nothing to tune: cuBLAS computes it; expected bfloat16 or float16")
    device = torch.device("cuda", torch.cuda.current_device()) if device is None else device
    table: Table = {}
    path = None
    for shape in llava_shapes() if shapes is None else shapes:
        with torch.cuda.device(device if device.type == "cuda" else -1):
            choice = _winner(shape, device, dtype, report, timer or time_on_gpu, tuple(tiles))
        if choice is not None:
            table[Key(shape.op, dtype, shape.n, shape.k, bucket(shape.m))] = choice
            path = choices.save(device, table)  # each time: whoever ends this need not ask
    if table:
        report(f"written to {path}: {len(table)} of this run" if path else "nothing is kept: no file could be written")
    return table


def _winner(
    shape: Shape,
    device: torch.device,
    dtype: torch.dtype,
    report: Callable[[str], object],
    timer: Timer,
    tiles: tuple[Tile, ...],
) -> Choice | None:
    """What is right and fastest; None where the device has too little memory for the shape."""
    try:
        problem = make_problem(shape, device, dtype)
        contenders, refused = _right_ones(problem, tiles)
        times = timer({choice: _call(problem, choice) for choice in contenders})
    except torch.OutOfMemoryError:
        report(f"{shape}: too large for the memory of this device")
        return None
    best = min(times, key=lambda choice: times[choice])
    if times[best] * LEAST_GAIN >= times[CUBLAS]:
        best = CUBLAS
    told = [f"{choice} {microseconds:.0f} us" for choice, microseconds in times.items()]
    report(f"{shape}: {best} ({', '.join([*told, *refused])})")
    return best


def _call(problem: Problem, choice: Choice) -> Callable[[], Any]:
    return lambda: problem.run(choice)


def _right_ones(problem: Problem, tiles: tuple[Tile, ...]) -> tuple[list[Choice], list[str]]:
    """cuBLAS and the tiles that give its result, and what is wrong with the others."""
    most = MOST_ERROR * problem.error(CUBLAS)
    right, refused = [CUBLAS], []
    for tile in tiles:
        try:
            error = problem.error(Choice(tile))
        except TritonError as error:  # more shared memory than the device has, or nothing that its compiler takes
            refused.append(f"{tile} cannot run: {type(error).__name__}")
            continue
        if error <= most:
            right.append(Choice(tile))
        else:
            refused.append(f"{tile} is wrong by {error:.2g}, allowed {most:.2g}")
    return right, refused


def make_problem(shape: Shape, device: torch.device, dtype: torch.dtype) -> Problem:
    """Random inputs of unit variance and weights that keep it; the same for each call."""
    if shape.op not in OPS:
        raise KernelInputError(f"there is no operation {shape.op!r}; expected {', '.join(OPS)}")
    generator = torch.Generator(device).manual_seed(0)

    def random(*sizes: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*sizes, generator=generator, device=device).mul_(scale).to(dtype)

    weight = random(shape.n, shape.k, scale=(shape.n if shape.op == "linear_dgelu" else shape.k) ** -0.5)
    if shape.op == "linear_dgelu":
        return _dgelu(random(shape.m, shape.n), weight, random(shape.m, shape.k))
    x, bias = random(shape.m, shape.k), random(shape.n, scale=0.1)
    return _gelu(x, weight, bias) if shape.op == "linear_gelu" else _scatter(x, weight, bias)


def _gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Problem:
    """As in training: the value before the activation is kept."""
    checked = _checked(x)
    exact = F.gelu(F.linear(x[checked].double(), weight.double(), bias.double()))

    def run(choice: Choice) -> Tensor:
        return linear_gelu(x, weight, bias, "gelu", True, choice)[0]

    return Problem(run, lambda choice: _difference(run(choice)[checked], exact))


def _scatter(x: Tensor, weight: Tensor, bias: Tensor) -> Problem:
    """Runs of one picture's rows, with half as many rows of text between them."""
    rows = torch.arange(x.shape[0], device=x.device)
    seats = (rows + rows // PICTURE_ROWS * (PICTURE_ROWS // 2)).int()
    buffer = x.new_zeros(x.shape[0] * 3 // 2 + PICTURE_ROWS, weight.shape[0])
    checked = _checked(x)
    exact = F.linear(x[checked].double(), weight.double(), bias.double())

    def error(choice: Choice) -> float:
        buffer.fill_(float("nan"))
        linear_scatter(x, weight, bias, seats, buffer, choice)
        return _difference(buffer[seats[checked].long()], exact)

    return Problem(lambda choice: linear_scatter(x, weight, bias, seats, buffer, choice), error)


def _dgelu(grad: Tensor, weight: Tensor, z: Tensor) -> Problem:
    checked = _checked(grad)
    exact = torch.ops.aten.gelu_backward(grad[checked].double() @ weight.double(), z[checked].double())

    def run(choice: Choice) -> Tensor:
        return linear_dgelu(grad, weight, z, "gelu", choice)

    return Problem(run, lambda choice: _difference(run(choice)[checked], exact))


def _checked(x: Tensor) -> Tensor:
    """The rows at both ends."""
    rows = torch.arange(x.shape[0], device=x.device)
    return rows if x.shape[0] <= 2 * CHECKED_ROWS else torch.cat([rows[:CHECKED_ROWS], rows[-CHECKED_ROWS:]])


def _difference(found: Tensor, exact: Tensor) -> float:
    """Infinite where something is not a number."""
    return (found.double() - exact).abs().nan_to_num(nan=float("inf")).max().item()


def time_on_gpu(functions: dict[Any, Callable[[], Any]]) -> dict[Any, float]:
    """Median microseconds of each function, called in turn, each with other data in the L2 cache."""
    for function in functions.values():
        for _ in range(WARM_UP):
            function()
    return {name: statistics.median(times) for name, times in event_times(functions, ROUNDS).items()}
