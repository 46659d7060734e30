"""What a run would ask, take and cost, before anything is sent: the dry run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from ..core.teacher import ResponseType, TeacherRequest
from ..recipe.generate import Generate
from .answers import LETTERS_PER_TOKEN, letters_of
from .cost import cost_of
from .run import ANSWERS, Hooks, Work


@dataclass
class Estimate:
    """Requests by type that are not answered yet, with their tokens; `likely` and `most` are costs, None without a price."""

    requests: dict[ResponseType, int] = field(default_factory=dict)
    known: int = 0
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    most_output_tokens: int = 0
    letters_per_token: float = LETTERS_PER_TOKEN
    likely: float | None = None
    most: float | None = None
    spent: float | None = None
    minutes: float | None = None
    example: TeacherRequest | None = None


def estimate(work: Work, show: Callable[..., None]) -> Estimate:
    """The estimate of all that `work` would ask. Tokens: as its answers were counted so far; else letters by four, and
    answers as long as the examples of the prompts.
    """
    found, answers = Estimate(letters_per_token=work.answers.letters_per_token), work.answers
    lengths = {type: _example_tokens(work, type) for type in work.prompts.types}
    seen: set[bytes] = set()
    index, sample = -1, None
    for number, task in enumerate(work.plan):
        if sample is None or task.index != index:
            index, sample = task.index, work.source[task.index]
        request = work.asking.settle(task, sample, answers.get)
        if not isinstance(request, TeacherRequest) or bytes.fromhex(request.key) in seen:
            found.known += not isinstance(request, TeacherRequest)
        else:
            seen.add(bytes.fromhex(request.key))
            found.requests[task.type] = found.requests.get(task.type, 0) + 1
            found.input_tokens += letters_of(request) / found.letters_per_token
            found.output_tokens += answers.output_mean or lengths[task.type]
            found.most_output_tokens += request.max_tokens
            found.example = found.example or request
        show(number + 1, len(work.plan))
    price = work.options.price
    if price is not None:
        found.likely = cost_of(price, found.input_tokens, found.output_tokens)
        found.most = cost_of(price, found.input_tokens, found.most_output_tokens)
        found.spent = cost_of(price, answers.input_tokens, answers.output_tokens)
    found.minutes = _minutes(work, found)
    return found


def _example_tokens(work: Work, type: ResponseType) -> float:
    """Tokens of an answer as the examples have it; without examples the longest that there may be."""
    examples = work.prompts.types[type].examples
    if not examples:
        return work.options.max_tokens
    return sum(len(answer) for _, answer in examples) / len(examples) / LETTERS_PER_TOKEN


def _minutes(work: Work, found: Estimate) -> float | None:
    """How long the limits of the rate make it take at least; None where there are none."""
    options, least = work.options, []
    if options.requests_per_minute is not None:
        least.append(sum(found.requests.values()) / options.requests_per_minute)
    if options.tokens_per_minute is not None:
        least.append((found.input_tokens + found.output_tokens) / options.tokens_per_minute)
    return max(least, default=None)


@contextmanager
def opened_for_looking(options: Generate, hooks: Hooks | None = None) -> Iterator[Work]:
    """The work of `options` without a trace: a folder that is there lends its answers, none is made."""
    if (Path(options.to) / ANSWERS).exists():
        with Work(options, hooks, looking=True) as work:
            yield work
        return
    with TemporaryDirectory() as folder, Work(options, hooks, answers=Path(folder) / ANSWERS) as work:
        yield work
