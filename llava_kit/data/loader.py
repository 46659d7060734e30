"""Optimizer steps of training data: the same steps for any number of workers, resumable at any step by its number."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from ..core.source import DataSource
from ..errors import DataError, LlavaKitError, SampleError
from .collate import Batch, collate
from .example import Example, ExampleMaker
from .order import DataOrder
from .packing import pack
from .pictures import arranged
from .workers import make_ahead


class BadSample(NamedTuple):
    """A sample that could not be used. `id` is its name, or its number in the source where it has none."""

    id: str
    reason: str
    message: str


@dataclass(frozen=True)
class StepData:
    """What one rank gets for one optimizer step. `step` counts from 0; the batches may be none when all samples are bad.

    num_samples    samples in the batches
    bad            those that were left out
    dropped_turns  turns left out of samples that were too long
    """

    step: int
    epoch: int
    batches: tuple[Batch, ...]
    bad: tuple[BadSample, ...]
    num_samples: int
    dropped_turns: int

    @property
    def num_seen(self) -> int:
        """Good and bad samples together."""
        return self.num_samples + len(self.bad)

    def pin_memory(self) -> StepData:
        batches = tuple(batch.pin_memory() for batch in self.batches)
        return StepData(self.step, self.epoch, batches, self.bad, self.num_samples, self.dropped_turns)


class TrainLoader:
    """Iterates over `StepData` from step `start_step` on.

    Which samples a step holds follows from `seed`, the step's number and the sizes alone; `rank` gets every `world_size`-th of
    them. Inside a step samples are sorted by length and split into batches of `micro_batch_size`, which changes no sum; with
    `pack_rows` they share rows of `max_length` positions (the maker's) and `micro_batch_size` counts rows.

    `epochs` or `steps` says how long it goes on. `vocab` is the number of rows of the embedding (default: the tokenizer's
    length). `round_to`: the length of a batch is rounded up to a multiple of it. `workers` processes make steps ahead; with 0
    they are made here. `pictures` is a rule of `data.pictures`, by which each epoch places them anew. A sample that cannot be
    used is left out and told in `StepData.bad`.

    `fixed_shapes`, for packed rows: each batch has `micro_batch_size` rows of `max_length`, the last ones empty if need be, and
    lists of round lengths, so that all batches have the same few shapes. `newlines`: the model has a newline row.
    """

    def __init__(
        self,
        maker: ExampleMaker,
        source: DataSource,
        *,
        global_batch_size: int,
        micro_batch_size: int | None = None,
        seed: int = 0,
        epochs: float | None = None,
        steps: int | None = None,
        pack_rows: bool = False,
        shuffled: bool = True,
        workers: int = 0,
        start_step: int = 0,
        vocab: int | None = None,
        round_to: int = 1,
        pin_memory: bool = False,
        rank: int = 0,
        world_size: int = 1,
        pictures: str = "as_written",
        fixed_shapes: bool = False,
        newlines: bool = True,
    ):
        if fixed_shapes and not (pack_rows and micro_batch_size):
            raise LlavaKitError(
                f"fixed_shapes: found pack_rows={pack_rows} and micro_batch_size={micro_batch_size}; expected packed rows, and "
                "how many of them a batch has"
            )
        self.order = DataOrder(len(source), global_batch_size, seed, epochs, steps, shuffled)
        vocab = len(maker.tokenizer) if vocab is None else vocab
        self._make = _StepMaker(
            maker,
            source,
            self.order,
            micro_batch_size,
            pack_rows,
            vocab,
            round_to,
            rank,
            world_size,
            pictures,
            fixed_shapes,
            newlines,
        )
        self.workers, self.start_step, self.pin_memory = workers, start_step, pin_memory

    @property
    def num_steps(self) -> int:
        """Steps of the whole run, those before `start_step` included."""
        return self.order.num_steps

    def __len__(self) -> int:
        return max(0, self.num_steps - self.start_step)

    def __iter__(self) -> Generator[StepData, None, None]:
        """The steps that are left. Closing it ends the workers.

        Raises:
            DataError: the data cannot be read, or a sample is too long and the maker's `too_long` is `error`.
            TrainingError: a worker died.
        """
        if not len(self):
            return
        if self.workers:
            steps = make_ahead(self._make, self.start_step, self.num_steps, self.workers)
        else:
            steps = (self._make(step) for step in range(self.start_step, self.num_steps))
        with closing(steps):
            for step in steps:
                yield step.pin_memory() if self.pin_memory else step


@dataclass(frozen=True)
class _StepMaker:
    """Makes any step from its number; this is what a worker is given."""

    maker: ExampleMaker
    source: DataSource
    order: DataOrder
    micro_batch_size: int | None
    pack_rows: bool
    vocab: int
    round_to: int
    rank: int
    world_size: int
    pictures: str
    fixed_shapes: bool
    newlines: bool

    def __call__(self, step: int) -> StepData:
        epoch, indices = self.order.samples(step)
        bad: list[BadSample] = []
        mine = indices[self.rank :: self.world_size].tolist()
        source = arranged(self.source, self.pictures, self.order.seed, epoch)
        examples = list(iterate_examples(self.maker, source, mine, bad.append))
        examples.sort(key=lambda example: -example.length)
        return StepData(
            step=step,
            epoch=epoch,
            batches=tuple(self._batches(examples)),
            bad=tuple(bad),
            num_samples=len(examples),
            dropped_turns=sum(example.dropped_turns for example in examples),
        )

    def _batches(self, examples: list[Example]) -> Iterator[Batch]:
        if self.pack_rows:
            rows = pack([example.length for example in examples], self.maker.max_length)
        else:
            rows = [[number] for number in range(len(examples))]
        size = self.micro_batch_size or max(1, len(rows))
        for start in range(0, len(rows), size):
            rows_of = rows[start : start + size]
            if self.fixed_shapes:
                rows_of = rows_of + [[]] * (size - len(rows_of))
            yield collate(
                examples,
                side=self.maker.side,
                vocab=self.vocab,
                rows_of=rows_of,
                length=self.maker.max_length if self.fixed_shapes else None,
                round_to=self.round_to,
                fixed_shapes=self.fixed_shapes,
                newlines=self.newlines,
            )


def iterate_examples(
    maker: ExampleMaker, source: DataSource, indices: Iterable[int], on_bad: Callable[[BadSample], object] | None = None
) -> Iterator[Example]:
    """The examples of those samples, in order; what cannot be used is left out and given to `on_bad`.

    Raises:
        DataError: a sample is too long and the maker's `too_long` is `error`; or the source itself cannot be read.
    """
    for index in indices:
        try:
            yield maker.make(source[index])
        except SampleError as error:
            if error.reason == "too_long" and maker.too_long == "error":
                raise DataError(f"{error}; raise max_length, or set too_long to drop_turns or drop_sample") from error
            if on_bad is not None:
                on_bad(BadSample(error.sample_id or f"number {index}", error.reason, error.message))
        except Exception as error:
            error.add_note(f"while sample number {index} was read")
            raise
