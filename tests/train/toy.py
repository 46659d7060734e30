"""A model and data as small as can be, with the faces the trainer sees: three components, a plan, a summed cross-entropy."""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from llava_kit.errors import LlavaKitError
from llava_kit.recipe.schema import Stage
from llava_kit.train.checkpoint import Checkpoints
from llava_kit.train.loop import Look, Trainer
from llava_kit.train.metrics import METRICS, Metrics, read_metrics

VOCAB, WIDTH = 11, 8


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(torch.tanh(self.linear(self.norm(x))))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Linear(12, WIDTH)
        self.layers = nn.ModuleList([Block(WIDTH)])

    def blocks(self):
        return list(self.layers)

    def forward(self, tiles: Tensor) -> Tensor:
        x = self.patch(tiles.flatten(1).float() / 255)
        for layer in self.layers:
            x = layer(x)
        return x


class LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList([Block(WIDTH), Block(WIDTH)])
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)

    def blocks(self):
        return list(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class ToyModel(nn.Module):
    """[n, 3, 2, 2] tiles, one a row; every position of a row sees its tile and its own token's predecessor."""

    def __init__(self):
        super().__init__()
        self.encoder, self.connector, self.language_model = Encoder(), nn.Linear(WIDTH, WIDTH), LanguageModel()
        self.newline = nn.Parameter(torch.zeros(WIDTH))

    def component_parameters(self, component: str) -> dict[str, nn.Parameter]:
        parameters = dict(getattr(self, component).named_parameters())
        if component == "connector":
            parameters["newline"] = self.newline
        return parameters

    def forward(self, tiles, plan, position_ids, target_positions, target_ids) -> Tensor:
        picture = self.connector(self.encoder(tiles)) + self.newline
        rows = self.language_model.tokens(plan.ids) + picture[:, None]
        hidden = self.language_model(rows).flatten(0, 1)[target_positions]
        return F.cross_entropy(self.language_model.head(hidden).float(), target_ids, reduction="sum")


@dataclass(frozen=True)
class Plan:
    ids: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.ids.shape[0], self.ids.shape[1]


@dataclass(frozen=True)
class Batch:
    tiles: Tensor
    plan: Plan
    position_ids: Tensor
    target_positions: Tensor
    target_ids: Tensor
    sample_ids: tuple[str, ...]
    num_tokens: int

    @property
    def num_targets(self) -> int:
        return len(self.target_ids)

    def to(self, device: Any, non_blocking: bool = False) -> Batch:
        moved = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, plan=Plan(self.plan.ids.to(device)), **moved)


def draw(seed: int, rows: int, length: int = 5, targets: int | None = None) -> Batch:
    """A batch that is a function of its seed. The answer is the token plus the picture's brightest corner."""
    generator = torch.Generator().manual_seed(seed)
    tiles = torch.randint(0, 256, (rows, 3, 2, 2), dtype=torch.uint8, generator=generator)
    ids = torch.randint(0, VOCAB, (rows, length), generator=generator)
    answers = (ids + tiles.float().mean(1).flatten(1).argmax(1)[:, None]) % VOCAB
    # The number of supervised tokens differs from batch to batch: what makes a mean of means wrong.
    count = targets or 1 + seed * 7 % (rows * length)
    positions = torch.randperm(rows * length, generator=generator)[:count].sort().values
    return Batch(
        tiles,
        Plan(ids),
        torch.arange(length).expand(rows, -1),
        positions,
        answers.flatten()[positions],
        tuple(f"sample-{seed}-{row}" for row in range(rows)),
        rows * length - 1,
    )


@dataclass(frozen=True)
class Step:
    batches: list[Batch]
    bad: tuple = ()
    epoch: int = 0
    dropped_turns: int = 0

    @property
    def num_seen(self) -> int:
        return len(self.bad) + sum(len(batch.sample_ids) for batch in self.batches)


class Stopped(Exception):
    """What ends a run that is to be taken up again."""


class ToyData:
    """Steps of `accumulate` micro-batches; step n is a function of n. With `end`, `Stopped` is raised after so many."""

    def __init__(self, rows: int = 4, accumulate: int = 1, end: int | None = None):
        self.rows, self.accumulate, self.end = rows, accumulate, end

    def __call__(self, start: int):
        for number in itertools.count(start):
            if number == self.end:
                raise Stopped
            yield self.step(number)

    def step(self, number: int) -> Step:
        return Step(self.batches(number))

    def batches(self, step: int) -> list[Batch]:
        return [draw(step * self.accumulate + part, self.rows) for part in range(self.accumulate)]


def make_stage(**changes: Any) -> Stage:
    """A stage that trains connector and language model for a few steps; `changes` are keys of the recipe."""
    part = {"type": "none"}
    keys = {
        "train": {"connector": {"lr": 1e-2}, "language_model": {"lr": 1e-3}},
        "data": {"source": part},
        "steps": 12,
        "global_batch_size": 4,
        "clip_norm": 1.0,
        "log_every": 1,
        "checkpoint": {"every": 3, "keep": 2},
        **changes,
    }
    return Stage.model_validate(keys)


def make_trainer(folder: Path, stage: Stage | None = None, *, data: Any = None, seed: int = 0, **keys: Any) -> Trainer:
    stage = stage or make_stage()
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    checkpoints = keys.pop("checkpoints", None) or Checkpoints(folder / "toy" / "checkpoints", stage.checkpoint, {"of": "toy"})
    steps = stage.steps or 1
    return Trainer(
        keys.pop("model", None) or ToyModel(),
        data or ToyData(),
        stage,
        stage="toy",
        num_steps=steps,
        folder=folder,
        checkpoints=checkpoints,
        seed=seed,
        **keys,
    )


def run(trainer: Trainer, *, resume: bool = True) -> list[dict[str, Any]]:
    """Train to the end (from the newest checkpoint); the metrics written so far, every stage's."""
    snapshot = trainer.checkpoints.newest() if resume else None
    if snapshot is not None:
        trainer.resume(snapshot)
    metrics = Metrics(
        trainer.folder,
        "toy",
        num_steps=trainer.num_steps,
        resumed_step=trainer.counters.step,
        console=Console(quiet=True, force_terminal=False),
    )
    try:
        trainer.run(metrics)
    finally:
        metrics.close()
    return read_metrics(trainer.folder / METRICS)


def curve(records: list[dict[str, Any]], kind: str = "train") -> list[tuple[int, float]]:
    return [(record["step"], record["loss"]) for record in records if record["kind"] == kind]


def held_out(model: ToyModel):
    """A validation over fixed batches."""

    def validate() -> Look:
        batches = [draw(1000 + number, 4) for number in range(3)]
        loss = sum(float(model(b.tiles, b.plan, b.position_ids, b.target_positions, b.target_ids)) for b in batches)
        return Look(loss / sum(b.num_targets for b in batches), [{"question": "?", "answer": "!"}])

    return validate


def main(folder: Path, *, pause: float = 0.0, **changes: Any) -> int:
    """A whole run in this process, as the command line would do it: its exit code. `pause` seconds a step make it killable."""

    class Slow(ToyData):
        def step(self, number: int) -> Step:
            time.sleep(pause)
            return super().step(number)

    try:
        run(make_trainer(folder, make_stage(**changes), data=Slow()))
    except LlavaKitError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def start(folder: Path, **keys: Any) -> Any:
    """`main` in a child that has torch loaded already; its words go to `<folder>/told`."""

    def child() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "told", "a", encoding="utf-8") as sys.stderr:
            code = main(folder, **keys)
        sys.exit(code)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process
