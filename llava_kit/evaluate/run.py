"""Ask a benchmark, score the answers, and put two baselines in the same table.

The wrong-picture column is the same model shown another question's picture: a model that does not look scores the same there.
The majority column is the best that can be had without a picture or a model: the most frequent reference answer of each type.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..assemble.parts import Assembly, build_part
from ..chat.responder import Responder
from ..core.benchmark import Benchmark
from ..core.conversation import Conversation, Sample
from ..errors import SampleError
from ..model.sampling import Sampling
from ..recipe.schema import Evaluate

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Answer:
    """One question with what was answered. `blind` is the answer to the wrong picture, None where it was not asked."""

    sample: Sample
    groups: tuple[str, ...]
    reply: str
    score: float
    blind: str | None = None
    blind_score: float = 0.0
    error: str | None = None

    @property
    def truth(self) -> str:
        return self.sample.conversation.messages[-1].text.strip()

    @property
    def question(self) -> str:
        return self.sample.conversation.messages[-2].text.strip()


@dataclass
class Evaluation:
    """All answers, and the table over them."""

    answers: list[Answer]
    seconds: float
    table: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """`evaluation.json` (the table) and `predictions.jsonl` (one line a question)."""
        (folder / "evaluation.json").write_text(json.dumps(self.table, indent=2) + "\n", encoding="utf-8")
        with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
            for answer in self.answers:
                row = {
                    "id": answer.sample.id,
                    "groups": list(answer.groups),
                    "question": answer.question,
                    "truth": answer.truth,
                    "answer": answer.reply,
                    "score": answer.score,
                    "wrong_picture_answer": answer.blind,
                    "error": answer.error,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def evaluate(assembly: Assembly, block: Evaluate, *, limit: int | None = None, progress: Progress | None = None) -> Evaluation:
    """Ask every question (the first `limit`) of the block's benchmark, in batches; each answer equals the one asked alone."""
    benchmark: Benchmark = build_part("benchmark", block.benchmark)
    samples = [benchmark[index] for index in range(min(len(benchmark), limit or len(benchmark)))]
    responder = assembly.responder()
    sampling = Sampling(max_new_tokens=block.max_new_tokens)
    rounds = 2 if block.wrong_picture else 1
    report = progress or (lambda done, total: None)
    start = time.perf_counter()
    total = rounds * len(samples)

    def ask(round_: int, asked: Sequence[Sample]) -> list[str | SampleError]:
        replies: list[str | SampleError] = []
        for first in range(0, len(asked), block.batch_size):
            replies += _ask_batch(responder, asked[first : first + block.batch_size], sampling)
            report(round_ * len(samples) + len(replies), total)
        return replies

    seen = ask(0, [_question(sample) for sample in samples])
    blind = (
        ask(1, [_question(sample) for sample in with_wrong_pictures(samples)]) if block.wrong_picture else [None] * len(samples)
    )
    answers = [_judge(benchmark, *row) for row in zip(samples, seen, blind, strict=True)]
    evaluation = Evaluation(answers, time.perf_counter() - start)
    evaluation.table = tabulate(answers, wrong_picture=block.wrong_picture) | {
        "benchmark": block.benchmark.type,
        "seconds": round(evaluation.seconds, 2),
    }
    return evaluation


def with_wrong_pictures(samples: Sequence[Sample]) -> list[Sample]:
    """Each sample with the pictures of another one that shows as many: its neighbour half-way round among those."""
    by_count: dict[int, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        by_count[len(sample.images)].append(index)
    result = list(samples)
    for indices in by_count.values():
        for place, index in enumerate(indices):
            other = indices[(place + len(indices) // 2) % len(indices)]
            result[index] = replace(samples[index], images=samples[other].images)
    return result


def tabulate(answers: Sequence[Answer], *, wrong_picture: bool) -> dict[str, Any]:
    """`accuracy`, `wrong_picture` and `majority` by question type and over `all`; the same for every further group."""
    by_type: dict[str, list[Answer]] = defaultdict(list)
    by_group: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_type[answer.groups[0] if answer.groups else "question"].append(answer)
        for group in answer.groups[1:]:
            by_group[group].append(answer)
    types = {"all": list(answers), **dict(sorted(by_type.items()))}
    table: dict[str, Any] = {"accuracy": {name: _mean([a.score for a in rows]) for name, rows in types.items()}}
    if wrong_picture:
        table["wrong_picture"] = {name: _mean([a.blind_score for a in rows]) for name, rows in types.items()}
    majority = {name: _majority(rows) for name, rows in by_type.items()}
    # Without a picture the question's type is still known, so the best blind guess over all is made type by type.
    overall = sum(majority[name] * len(rows) for name, rows in by_type.items()) / len(answers) if answers else 0.0
    table["majority"] = {"all": round(overall, 4), **{name: round(majority[name], 4) for name in sorted(majority)}}
    table["questions"] = len(answers)
    table["questions_by_type"] = {name: len(rows) for name, rows in types.items()}
    table["unanswered"] = sum(answer.error is not None for answer in answers)
    if by_group:
        table["groups"] = {name: tabulate_group(rows) for name, rows in sorted(by_group.items())}
    return table


def tabulate_group(answers: Sequence[Answer]) -> dict[str, Any]:
    """Accuracy by question type inside one group."""
    by_type: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        by_type[answer.groups[0]].append(answer.score)
    rows = {"all": [answer.score for answer in answers], **dict(sorted(by_type.items()))}
    return {"accuracy": {name: _mean(scores) for name, scores in rows.items()}, "questions": len(answers)}


def _question(sample: Sample) -> Sample:
    """The sample without its reference answer."""
    conversation = sample.conversation
    return replace(sample, conversation=Conversation(conversation.messages[:-1], conversation.system))


def _ask_batch(responder: Responder, samples: Sequence[Sample], sampling: Sampling) -> list[str | SampleError]:
    try:
        return list(responder.reply(samples, sampling, batch_size=len(samples)))
    except SampleError as error:
        if len(samples) == 1:
            return [error]
        # One bad question must not take its neighbours along.
        return [reply for sample in samples for reply in _ask_batch(responder, [sample], sampling)]


def _judge(benchmark: Benchmark, sample: Sample, reply: str | SampleError, blind: str | SampleError | None) -> Answer:
    groups = tuple(benchmark.groups(sample))
    if isinstance(reply, SampleError):
        return Answer(sample, groups, "", 0.0, error=str(reply))
    if blind is None or isinstance(blind, SampleError):
        return Answer(sample, groups, reply, benchmark.score(sample, reply))
    return Answer(sample, groups, reply, benchmark.score(sample, reply), blind, benchmark.score(sample, blind))


def _mean(scores: Sequence[float]) -> float:
    return round(sum(scores) / len(scores), 4) if scores else 0.0


def _majority(answers: Sequence[Answer]) -> float:
    return Counter(answer.truth for answer in answers).most_common(1)[0][1] / len(answers)
