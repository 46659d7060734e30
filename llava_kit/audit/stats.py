"""What is in data, counted in one pass, so that sources and mixtures can be laid side by side."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.conversation import Sample
from ..core.source import DataSource
from ..data.workers import make_ahead
from ..errors import LlavaKitError, SampleError, TrainingError
from ..store.facts import facts_of, source_of
from .words import divergence, tagged, tagger_problem, words_of

if TYPE_CHECKING:
    from ..data.example import ExampleMaker

Show = Callable[[int, int], None]
WORKERS = 2
ROWS_AT_ONCE = 256
# Rows whose sentences are tagged: of a verb in a hundredth of them the share is known to a seventh of itself (1 / sqrt(50)).
TAGGED_ROWS = 5000
# Ingredients that are told apart; the rest are counted together.
MAX_GROUPS = 100
OTHERS = "(others)"
# Different words that are kept of a group: what is rarer than all these changes no figure that is shown.
MAX_WORDS = 200_000
ALL = "all"


@dataclass
class Group:
    """Counts of some samples. Lengths are value -> how often; words count as they stand between spaces.

    longest   the longer side of pictures in pixels
    aspects   width / height, two digits
    tokens    positions of whole samples, pictures included; `taught` those that are learnt (where a recipe is given)
    words     of the answers, in lower case; verbs, nouns and pairs of the tagged rows alone
    unread    pictures whose headers cannot be read; `unfit` samples that the recipe's stage could not use
    cut       how often rare words had to be forgotten to keep memory bounded
    """

    samples: int = 0
    pictures: int = 0
    clips: int = 0
    boxes: int = 0
    unread: int = 0
    unfit: int = 0
    turns: Counter[int] = field(default_factory=Counter)
    question_words: Counter[int] = field(default_factory=Counter)
    answer_words: Counter[int] = field(default_factory=Counter)
    longest: Counter[int] = field(default_factory=Counter)
    aspects: Counter[float] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    taught: Counter[int] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    tagged_rows: int = 0
    verbs: Counter[str] = field(default_factory=Counter)
    nouns: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    """The pairs of the questions; `pairs` are those of the answers."""
    cut: int = 0

    def add(self, other: Group) -> None:
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            else:
                setattr(self, one.name, mine + theirs)
        for name in ("words", "verbs", "nouns", "pairs", "asked"):
            counted = getattr(self, name)
            if len(counted) > 2 * MAX_WORDS:
                setattr(self, name, Counter(dict(counted.most_common(MAX_WORDS))))
                self.cut += 1


@dataclass
class Mixture:
    """What one input holds: `groups` by ingredient (or source), `all` of them together; rows that cannot be used, by reason."""

    name: str
    groups: dict[str, Group]
    bad: Counter[str]
    told: str = ""
    """What it was read from."""

    @property
    def all(self) -> Group:
        return self.groups[ALL]

    @property
    def ingredients(self) -> dict[str, Group]:
        """The largest first; empty where there is one alone."""
        parts = {name: group for name, group in self.groups.items() if name != ALL}
        ordered = sorted(parts.items(), key=lambda pair: (-pair[1].samples, pair[0]))
        return dict(ordered) if len(parts) > 1 else {}


class Comparison(NamedTuple):
    """Several inputs side by side. `notes` say what was not counted, and why."""

    mixtures: list[Mixture]
    notes: list[str]
    seed: int

    def compared(self) -> dict[str, Group]:
        """What the distances are between: the inputs, or the ingredients of the only one."""
        if len(self.mixtures) == 1:
            (only,) = self.mixtures
            return only.ingredients or {only.name: only.all}
        return {mixture.name: mixture.all for mixture in self.mixtures}

    def distances(self, limit: int = 12) -> tuple[list[str], list[list[float]]]:
        """The names, and the divergence of the answers' words of each two (`words.divergence`); of at most `limit`."""
        groups = dict(list(self.compared().items())[:limit])
        rows = [[divergence(first.words, second.words) for second in groups.values()] for first in groups.values()]
        return list(groups), rows


class Input(NamedTuple):
    """A source to look at, the name it has in the comparison, and how many of its samples are meant."""

    name: str
    source: DataSource
    count: int
    told: str = ""


def compare(
    inputs: Sequence[Input],
    *,
    maker: ExampleMaker | None = None,
    sizes: bool = True,
    tag_rows: int = TAGGED_ROWS,
    seed: int = 0,
    workers: int = WORKERS,
    show: Show | None = None,
) -> Comparison:
    """All inputs, counted by so many processes (0: this one).

    `maker` counts tokens as a recipe's stage would; `sizes` has the headers of pictures read; verbs and nouns are those of
    `tag_rows` rows of each input, chosen by `seed`.

    Raises:
        LlavaKitError: two inputs have one name, or a worker died.
    """
    names = [one.name for one in inputs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LlavaKitError(f"two inputs are called {', '.join(map(repr, twice))}; give them names: --names a,b,...")
    notes = []
    problem = tagger_problem() if tag_rows else None
    if problem is not None:
        notes.append(problem)
        tag_rows = 0
    total, done, mixtures = sum(one.count for one in inputs), 0, []
    for one in inputs:
        chosen = frozenset(random.Random(seed).sample(range(one.count), min(tag_rows, one.count)))
        mixture = Mixture(one.name, {ALL: Group()}, Counter(), one.told)
        for part in _parts(_Counter(one.source, one.count, chosen, maker, sizes), one.count, workers):
            _merge(mixture, part)
            done += part.rows
            if show is not None:
                show(done, total)
        if mixture.bad:
            told = ", ".join(f"{reason} {number:,}" for reason, number in mixture.bad.most_common(8))
            notes.append(f"{one.name}: {mixture.bad.total():,} of {one.count:,} rows could not be read ({told})")
        if mixture.all.unread:
            notes.append(f"{one.name}: {mixture.all.unread:,} of {mixture.all.pictures:,} pictures could not be read")
        if mixture.all.unfit:
            notes.append(f"{one.name}: {mixture.all.unfit:,} of {mixture.all.samples:,} samples cannot be used by the recipe")
        mixtures.append(mixture)
    if tag_rows:
        rows = ", ".join(f"{mixture.name} {mixture.all.tagged_rows:,}" for mixture in mixtures)
        notes.append(f"verbs and nouns are those of a sample of rows (seed {seed}): {rows}")
    if any(group.cut for mixture in mixtures for group in mixture.groups.values()):
        notes.append(f"of words beyond the {MAX_WORDS:,} most frequent not all were counted")
    return Comparison(mixtures, notes, seed)


def quantile(counts: Mapping[Any, int], share: float) -> Any:
    """The smallest value that at least this share of all is not above; None of nothing."""
    wanted, seen = share * sum(counts.values()), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= wanted:
            return value
    return None


class _Part(NamedTuple):
    rows: int
    groups: dict[str, Group]
    bad: Counter[str]


class _Counter:
    """Counts a chunk of a source's rows. Can be pickled to workers."""

    def __init__(self, source: DataSource, count: int, chosen: frozenset[int], maker: ExampleMaker | None, sizes: bool):
        self.source, self.count, self.chosen, self.sizes = source, count, chosen, sizes
        self.training = None
        if maker is not None:
            from .training import TrainingChecker  # here alone, as it takes torch

            self.training = TrainingChecker(maker)

    def chunk(self, number: int) -> _Part:
        rows = range(number * ROWS_AT_ONCE, min(self.count, (number + 1) * ROWS_AT_ONCE))
        part = _Part(len(rows), {}, Counter())
        for row in rows:
            try:
                sample = self.source[row]
            except SampleError as error:
                part.bad[error.reason] += 1
                continue
            name = str(sample.tags.get("ingredient") or source_of(sample))
            self._count(sample, part.groups.setdefault(name, Group()), row in self.chosen)
        return part

    def _count(self, sample: Sample, group: Group, tag: bool) -> None:
        facts = facts_of(sample, sizes=self.sizes)
        group.samples += 1
        group.pictures += facts.num_pictures
        group.clips += facts.num_clips
        group.boxes += facts.num_boxes
        group.turns[facts.num_turns] += 1
        for width, height in facts.sizes:
            group.longest[max(width, height)] += 1
            group.aspects[round(width / height, 2)] += 1
        if self.sizes:
            group.unread += facts.num_pictures - len(facts.sizes)
        group.tagged_rows += tag
        for message in sample.conversation.messages:
            text = message.text
            if message.role == "assistant":
                group.answer_words[len(text.split())] += 1
                group.words.update(words_of(text))
            elif message.role == "user":
                group.question_words[len(text.split())] += 1
            if tag and message.role != "system":
                found = tagged(text)
                if message.role == "user":
                    group.asked.update(found.pairs)
                    continue
                group.verbs.update(found.verbs)
                group.nouns.update(found.nouns)
                group.pairs.update(found.pairs)
        if self.training is not None:
            taught = self.training.look(sample, [])
            group.unfit += taught is None
            if taught is not None:
                group.tokens[taught.length] += 1
                group.taught[taught.targets] += 1


def _parts(counter: _Counter, count: int, workers: int) -> Iterator[_Part]:
    chunks = -(-count // ROWS_AT_ONCE)
    if workers < 1 or chunks < 2:
        yield from map(counter.chunk, range(chunks))
        return
    try:
        yield from make_ahead(counter.chunk, 0, chunks, workers)
    except TrainingError as error:
        raise LlavaKitError(f"{str(error).partition(';')[0]}; if memory ran out, --workers 1 needs less") from error


def _merge(mixture: Mixture, part: _Part) -> None:
    mixture.bad.update(part.bad)
    for name, group in part.groups.items():
        known = name in mixture.groups or len(mixture.groups) <= MAX_GROUPS
        mixture.groups.setdefault(name if known and name != ALL else OTHERS, Group()).add(group)
        mixture.all.add(group)
