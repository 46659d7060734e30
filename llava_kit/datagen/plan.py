"""Who is asked what: which type of answer for which picture, and the exact request, as pure functions of data and seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.conversation import Clip, ClipFolder, Sample
from ..core.source import DataSource
from ..core.teacher import RESPONSE_TYPES, ChatMessage, ResponseType, TeacherAnswer, TeacherRequest
from ..errors import DataError, SampleError
from ..image.reader import picture_size
from ..recipe.generate import Generate
from .judge import Judge
from .parse import Rejected, Turns, parse
from .prompt_set import PromptSet, shown_to, told_of

REQUEST_VERSION = 1  # in every key: what is asked differently by a later version is asked again
_SEED_BITS = 31  # endpoints take a signed 32-bit number

_REPAIR = (
    "This cannot be used: {what}. Write it again, from the beginning, in the form that was asked for, "
    "and as one who looks at the picture."
)


class Task(NamedTuple):
    """One answer that is wanted: of which sample, of which type; `turn` counts equal wishes for one picture from 0."""

    index: int
    type: ResponseType
    turn: int


class Skipped(NamedTuple):
    """A sample about which nothing can be asked."""

    id: str
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """All tasks in the order of the source, as three arrays: nine bytes for each answer, whatever the pictures."""

    indices: NDArray[np.int64]
    types: NDArray[np.uint8]
    turns: NDArray[np.int64]
    pictures: int

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Task]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Task:
        return Task(int(self.indices[number]), RESPONSE_TYPES[self.types[number]], int(self.turns[number]))


def make_plan(usable: NDArray[np.int64], options: Generate) -> Plan:
    """The tasks for the samples `usable`.

    The pictures stand in an order drawn from the seed, again and again in a long row; of that row each type takes the next
    stretch. So a type comes to every picture once before it comes to one twice, and counts are exact.
    """
    counts = options.counts(len(usable))
    order = usable[np.argsort(_mixed(usable, options.seed), kind="stable")]
    indices, types, turns, place = [], [], [], 0
    for number, type in enumerate(RESPONSE_TYPES):
        places = np.arange(place, place + counts[type])
        place += counts[type]
        indices.append(order[places % len(order)])
        types.append(np.full(counts[type], number, dtype=np.uint8))
        turns.append(np.arange(counts[type]) // len(order))
    columns = np.concatenate(indices), np.concatenate(types), np.concatenate(turns)
    first = np.lexsort((columns[2], columns[1], columns[0]))
    return Plan(columns[0][first], columns[1][first], columns[2][first], len(usable))


def _mixed(values: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A number for each value that looks drawn (splitmix64): the same on every machine and in every version of numpy."""
    start = np.uint64(int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "little"))
    with np.errstate(over="ignore"):
        mixed = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def look_through(
    source: DataSource, count: int, show: Callable[[int, int], None]
) -> tuple[NDArray[np.int64], list[Skipped], int]:
    """The samples of which something is known, those of which nothing is, and how many of the first have no boxes."""
    usable, skipped, without_boxes = [], [], 0
    for index in range(count):
        name = f"number {index}"
        try:
            sample = source[index]
            name = sample.id
            _check_sample(sample)
        except SampleError as error:
            skipped.append(Skipped(error.sample_id or name, error.reason, error.message))
        else:
            usable.append(index)
            without_boxes += not sample.annotations.boxes
        show(index + 1, count)
    return np.array(usable, dtype=np.int64), skipped, without_boxes


def _check_sample(sample: Sample) -> None:
    known = sample.annotations
    if not any(caption.strip() for caption in known.captions):
        raise SampleError("no_captions", "has no captions, and a teacher that sees no picture knows it by these alone")
    try:
        told_of(known)
    except ValueError as error:
        raise SampleError("bad_box", str(error)) from None
    if not sample.images:
        raise SampleError("no_picture", "has no picture")
    if isinstance(sample.images[0], Clip | ClipFolder):
        raise SampleError("video", f"shows the clip {sample.images[0].name!r}; captions and boxes are of one picture")
    picture_size(sample.images[0])  # a row without its picture is worth nothing, and its answer would be paid for


class Settled(NamedTuple):
    """A task whose answers are all here: what was said, or None; and the answers that were not taken, in order."""

    turns: Turns | None
    request: TeacherRequest
    answer: TeacherAnswer
    rejected: tuple[tuple[TeacherRequest, TeacherAnswer, Rejected], ...]


class Asking:
    """Tasks into requests, and answers into what is kept: the same code for whoever does the asking. Picklable."""

    def __init__(self, options: Generate, prompts: PromptSet, teacher: str):
        self.options, self.prompts, self.teacher = options, prompts, teacher
        self._judge = Judge(options.judge, prompts)

    def settle(self, task: Task, sample: Sample, known: Callable[[str], TeacherAnswer | None]) -> Settled | TeacherRequest:
        """What the answers that are `known` by key come to; or the request that is to be asked next."""
        request, rejected = self.request(task, sample), []
        told = request.annotations
        for attempt in range(self.options.repair + 1):
            answer = known(request.key)
            if answer is None:
                return request
            try:
                turns = parse(answer.text, task.type)
                self._judge.check(turns, answer, task.type, told)
            except Rejected as error:
                rejected.append((request, answer, error))
                if attempt < self.options.repair:
                    request = self._repair(request, answer, error)
                continue
            return Settled(turns, request, answer, tuple(rejected))
        last, answer, _ = rejected[-1]
        return Settled(None, last, answer, tuple(rejected))

    def request(self, task: Task, sample: Sample) -> TeacherRequest:
        """The first request of a task."""
        told = shown_to(task.type, sample.annotations)
        seed = _seed(self.options.seed, sample.id, task.type, task.turn)
        temperature, max_tokens = self.options.temperature, self.options.max_tokens
        messages = self.prompts.messages(task.type, told)
        return self._keyed(TeacherRequest("", task.type, messages, told, seed, temperature, max_tokens))

    def question(self, task: Task, sample: Sample) -> str:
        """What a person asks who is given a detailed description."""
        number = _seed(self.options.seed, sample.id, "question", task.turn)
        return self.prompts.questions[number % len(self.prompts.questions)]

    def _repair(self, request: TeacherRequest, answer: TeacherAnswer, error: Rejected) -> TeacherRequest:
        again = ChatMessage("user", _REPAIR.format(what=error.what))
        messages = (*request.messages, ChatMessage("assistant", answer.text), again)
        return self._keyed(replace(request, messages=messages, seed=_seed(request.seed, "repair")))

    def _keyed(self, request: TeacherRequest) -> TeacherRequest:
        # The prompt's own messages are the same for all pictures: their digest stands for them.
        own = request.messages[len(self.prompts.heads[request.type]) :]
        said = [self.teacher, request.type, self.prompts.digests[request.type], *((part.role, part.content) for part in own)]
        told = [request.annotations.captions, request.annotations.boxes]
        text = json.dumps([REQUEST_VERSION, said, told, [request.seed, request.temperature, request.max_tokens]])
        return replace(request, key=hashlib.sha256(text.encode()).hexdigest()[:32])


def _seed(*parts: object) -> int:
    data = json.dumps(parts).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little") % 2**_SEED_BITS


def nothing_usable(skipped: list[Skipped]) -> DataError:
    """The error of a source that holds nothing to ask about."""
    counts: dict[str, int] = {}
    for sample in skipped:
        counts[sample.reason] = counts.get(sample.reason, 0) + 1
    told = ", ".join(f"{number} {reason}" for reason, number in counts.items())
    example = f" ({skipped[0].id}: {skipped[0].message})" if skipped else ""
    return DataError(
        f"none of {len(skipped)} samples can be asked about: {told or 'the source is empty'}{example}; expected pictures with "
        "captions, as the sources coco, caps_boxes and shapes (with annotations: true) give them"
    )
