"""What each step of a `prepare` block does, by its name: options in, a few words on what came of it out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..assemble.build import build_source
from ..audit.check import check
from ..captions.run import filter_captions
from ..convert.block import Settings
from ..convert.run import convert
from ..data.workers import usual_workers
from ..datagen.run import Hooks, generate
from ..errors import DataError, LlavaKitError
from ..recipe.filter_captions import FilterCaptions
from ..recipe.generate import Generate
from ..recipe.prepare import Check, Convert

Say = Callable[[str], None]
Progress = Callable[[str, str], AbstractContextManager[Callable[..., None]]]
"""`(what, unit)` -> a context that gives a function `(done, total)`."""

Action = Callable[[Any, Say, Progress], str]


def convert_step(block: Convert, say: Say, progress: Progress) -> str:
    source = build_source(block.source)
    count = min(len(source), block.limit or len(source))
    settings = Settings(block.form, None if block.image_root is None else os.path.abspath(block.image_root))
    described = block.source.model_dump(mode="json")
    with progress("convert", "samples") as show:
        done = convert(
            source, count, block.to, settings, described=described, workers=block.workers or usual_workers(), show=show
        )
    told = f"{done.samples:,} samples in {block.to}"
    return told + (f", {done.rejected:,} rejected ({_listed(done.bad)})" if done.rejected else "")


def check_step(block: Check, say: Say, progress: Progress) -> str:
    against = {f"{number}: {part.type}": build_source(part) for number, part in enumerate(block.against, 1)}
    with progress("check", "samples") as show:
        report = check(build_source(block.source), name=block.source.type, against=against, workers=2, show=show)
    path = Path(block.report)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.as_dict(), indent=1) + "\n", encoding="utf-8")
    severities = ("error", "warning") if block.strict else ("error",)
    found = {entry["reason"]: entry["count"] for entry in report.as_dict()["findings"] if entry["severity"] in severities}
    stopping = {reason: count for reason, count in found.items() if reason not in block.allow}
    if stopping:
        raise DataError(
            f"the check found what nobody allowed: {_listed(stopping)}; {block.report} says where; mend the data, or name the "
            "reasons under `allow`"
        )
    counts = f"{report.number_of('error')} errors, {report.number_of('warning')} warnings"
    return f"{report.samples:,} samples, {counts} ({block.report})"


def generate_step(block: Generate, say: Say, progress: Progress) -> str:
    result = generate(block, hooks=Hooks(progress=progress, tell=say))
    if result.exit_code or result.written is None:
        why = result.asked.message or f"{len(result.asked.failures)} requests were given up"
        error = LlavaKitError(f"{block.to}: not all was answered ({why}); the same command goes on")
        error.exit_code = result.exit_code or 1
        raise error
    rows, rejected = result.written.rows, result.written.rejected
    told = f"{sum(rows.values()):,} rows ({_listed(rows)}) in {block.to}"
    told += f", {sum(rejected.values()):,} answers not taken ({_listed(rejected)})" if rejected else ""
    return told + ("" if result.cost is None else f", cost {result.cost:.2f}")


def filter_captions_step(block: FilterCaptions, say: Say, progress: Progress) -> str:
    done = filter_captions(block, progress=progress)
    numbers = done.statistics
    told = f"{numbers['captions_chosen']:,} of {numbers['captions']:,} captions in {block.to}"
    return told + (f", {done.rejected:,} samples without caption or picture" if done.rejected else "")


ACTIONS: Mapping[str, Action] = {
    "convert": convert_step,
    "check": check_step,
    "generate": generate_step,
    "filter_captions": filter_captions_step,
}


def target_of(block: Any) -> str:
    """What a step makes: its folder, or its report."""
    return block.report if isinstance(block, Check) else block.to


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
