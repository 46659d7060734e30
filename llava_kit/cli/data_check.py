"""`llava-kit data check`: every mistake of every row, before a GPU finds it; exit code 3 where there are errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from .data_source import WORDS, WORDS_HELP, add_source, is_recipe, refuse_outputs, source_part

if TYPE_CHECKING:
    from ..audit.report import Finding, Report
    from ..core.source import DataSource
    from ..data.example import ExampleMaker
    from ..recipe.schema import Recipe, Stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar=WORDS, help=WORDS_HELP)
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="PATH",
        help="another split (with its options: 'PATH image_root=...'); what it shares with these data is told; may be repeated",
    )
    parser.add_argument("--recipe", metavar="NAME", help="of a PATH: tokens and tiles as this recipe's stage makes them")
    parser.add_argument(
        "--headers", action="store_true", help="read the headers of pictures alone: quick, but damage stays hidden"
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default 2; 0: none beside this one)")
    parser.add_argument("--strict", action="store_true", help="exit code 3 for warnings too")
    parser.add_argument(
        "--explain", action="store_true", help="tell what each reason means, and what to do; nothing is checked"
    )
    out = parser.add_argument_group("what is written")
    out.add_argument("--report", metavar="OUT.json", help="counts, examples and spreads, for programs")
    out.add_argument("--findings", metavar="OUT.jsonl", help="every finding, one a line")
    out.add_argument("--bad-rows", metavar="OUT.tsv", help="number and id of each row with an error, one a line")
    out.add_argument("--html", metavar="OUT.html", help="a page with counts, charts and pictures of what was found")
    out.add_argument("--json", action="store_true", help="print the report for programs")
    add_source(parser)


def run(arguments: argparse.Namespace) -> int:
    from .check_summary import explain_lines, summary_lines, width_of_terminal

    if arguments.explain:
        print("\n".join(explain_lines(width_of_terminal())).rstrip())
        return 0
    _check_arguments(arguments)
    jobs = _jobs(arguments)
    refuse_outputs(_outputs(arguments), [job.source for job in jobs])  # a folder's file of rows is known by now
    with _written(arguments) as listeners:
        reports = [_check(job, arguments, listeners) for job in jobs]
    told = _told(reports)
    if arguments.report is not None:
        _write_json(arguments.report, told)
    if arguments.html is not None:
        from ..audit.page import write_page

        write_page(arguments.html, [(report, job.source) for report, job in zip(reports, jobs, strict=True)])
    if arguments.json:
        _print_json(told)
    else:
        width = width_of_terminal()
        print("\n\n".join("\n".join(summary_lines(report, width)) for report in reports))
    return 3 if any(report.fails(arguments.strict) for report in reports) else 0


class _Job(NamedTuple):
    """One source to be checked, and with what it is compared. `note`: why tokens are not looked at."""

    name: str
    source: DataSource
    count: int
    maker: ExampleMaker | None
    against: dict[str, DataSource]
    note: str | None


def _check_arguments(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from ..errors import LlavaKitError

    if arguments.workers < 0:
        raise LlavaKitError(f"--workers {arguments.workers}: expected 0 or more")
    by_recipe = bool(arguments.words) and arguments.source is None and is_recipe(arguments.words[0])
    if by_recipe and arguments.recipe is not None:
        raise LlavaKitError(
            f"found the recipe {arguments.words[0]!r} and --recipe {arguments.recipe}; expected one or the other"
        )
    outputs = _outputs(arguments)
    for option, path in outputs.items():
        # Told before the work, not after an hour of it.
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise LlavaKitError(f"{option} {path}: there is no folder {Path(path).parent}")
    against = [word for text in arguments.against for word in (text, *text.split())]
    refuse_outputs(outputs, arguments.words, against, _parts_read(arguments))


def _outputs(arguments: argparse.Namespace) -> dict[str, str | None]:
    return {f"--{name.replace('_', '-')}": getattr(arguments, name) for name in ("report", "findings", "bad_rows", "html")}


def _parts_read(arguments: argparse.Namespace) -> list[Any]:
    """The sources that the arguments name, as blocks: what they read must not be overwritten."""
    from ..recipe.load import load_recipe

    words = arguments.words
    if arguments.source is None and words and is_recipe(words[0]):
        stages = load_recipe(words[0], words[1:]).stages.values()
        return [part for stage in stages for part in (stage.data.source, stage.validate_on and stage.validate_on.source)]
    return [source_part(arguments, words)] if arguments.source is not None and not words else []


def _jobs(arguments: argparse.Namespace) -> list[_Job]:
    """What is to be checked: a path or source, or each stage of a recipe (or the one that was named)."""
    from ..recipe.load import load_recipe
    from .data_source import open_source
    from .stage_data import choose_stage

    against = _against(arguments.against)
    words = arguments.words
    if arguments.source is not None or not words or not is_recipe(words[0]):
        opened = open_source(arguments, words)
        maker, note = None, None
        if arguments.recipe is not None:
            recipe = load_recipe(arguments.recipe)
            maker, note = _maker(recipe, choose_stage(recipe, arguments.stage)[1])
        return [_Job(words[0] if words else opened.part.type, opened.source, opened.count, maker, against, note)]
    recipe = load_recipe(words[0], words[1:])
    names = (
        [choose_stage(recipe, arguments.stage)[0]]
        if arguments.stage is not None or arguments.validation
        else list(recipe.stages)
    )
    return [_stage_job(recipe, name, arguments, against) for name in names]


def _stage_job(recipe: Recipe, name: str, arguments: argparse.Namespace, against: dict[str, DataSource]) -> _Job:
    from ..data.pictures import arranged
    from .data_source import open_source

    stage = recipe.stages[name]
    opened = open_source(argparse.Namespace(**{**vars(arguments), "stage": name}), arguments.words)
    maker, note = _maker(recipe, stage)
    told = f"{recipe.name}, stage {name}"
    if arguments.validation:
        return _Job(f"{told}, validation", opened.source, opened.count, maker, against, note)
    source = arranged(opened.source, stage.data.pictures, recipe.seed)
    return _Job(told, source, opened.count, maker, {**_held_out(recipe, stage), **against}, note)


def _held_out(recipe: Recipe, stage: Stage) -> dict[str, DataSource]:
    """The samples of a recipe that its training must not see: the stage's validation, and the benchmark's questions."""
    from ..assemble.build import build_part, build_source
    from ..audit.questions import BenchmarkSource

    held: dict[str, DataSource] = {}
    if stage.validate_on is not None:
        held["its validation"] = build_source(stage.validate_on.source)
    if recipe.evaluate is not None:
        held[f"the benchmark {recipe.evaluate.benchmark.type}"] = BenchmarkSource(
            build_part("benchmark", recipe.evaluate.benchmark)
        )
    return held


def _maker(recipe: Recipe, stage: Stage) -> tuple[ExampleMaker | None, str | None]:
    """What makes the stage's examples; or why it cannot be had, as where the tokenizer is not on this machine."""
    from ..errors import LlavaKitError
    from .stage_data import stage_maker

    try:
        return stage_maker(recipe, stage)[0], None
    except LlavaKitError as error:
        return None, f"tokens and tiles were not looked at: {error}"


def _against(texts: list[str]) -> dict[str, DataSource]:
    import shlex
    from pathlib import Path

    from ..assemble.build import build_source
    from ..errors import LlavaKitError

    found: dict[str, DataSource] = {}
    for text in texts:
        words = [text] if Path(text).exists() else shlex.split(text)
        block = text.lstrip().startswith("{")
        asked = argparse.Namespace(source=text if block else None, format=None, stage=None, validation=False)
        try:
            found[text] = build_source(source_part(asked, [] if block else words))
        except LlavaKitError as error:
            raise type(error)(f"--against: {error}") if type(error).__init__ is LlavaKitError.__init__ else error from None
    return found


def _check(job: _Job, arguments: argparse.Namespace, listeners: list[Any]) -> Report:
    from dataclasses import replace

    from ..audit.check import check
    from .progress import progress

    def on_finding(finding: Finding) -> None:
        for listener in listeners:
            listener(job.name, finding)

    with progress(f"check {job.name}"[-40:], "samples") as show:
        report = check(
            job.source,
            job.count,
            name=job.name,
            maker=job.maker,
            against=job.against,
            decode=not arguments.headers,
            workers=arguments.workers,
            show=show,
            on_finding=on_finding,
        )
    return report if job.note is None else replace(report, notes=(job.note,))


@contextmanager
def _written(arguments: argparse.Namespace) -> Iterator[list[Any]]:
    """Who is told each finding while the check runs: the files of --findings and --bad-rows."""
    import json
    from contextlib import ExitStack

    from ..audit.reasons import reason_of

    listeners: list[Any] = []
    with ExitStack() as stack:
        if arguments.findings is not None:
            findings = stack.enter_context(_file(arguments.findings))

            def every(name: str, finding: Finding) -> None:
                findings.write(json.dumps({"data": name, **finding.as_dict()}) + "\n")

            listeners.append(every)
        if arguments.bad_rows is not None:
            rows = stack.enter_context(_file(arguments.bad_rows))
            seen: set[tuple[str, int]] = set()

            def bad(name: str, finding: Finding) -> None:
                if reason_of(finding.reason).severity == "error" and (name, finding.row) not in seen:
                    seen.add((name, finding.row))
                    rows.write(f"{finding.row}\t{json.dumps(finding.id)[1:-1]}\n")

            listeners.append(bad)
        yield listeners


@contextmanager
def _file(path: str) -> Iterator[Any]:
    """A file that appears when all is in it."""
    import os

    from ..errors import LlavaKitError

    unfinished = f"{path}.tmp"
    try:
        with open(unfinished, "w", encoding="utf-8", newline="\n") as file:
            yield file
        os.replace(unfinished, path)
    except OSError as error:
        raise LlavaKitError(f"{path}: cannot be written: {os.strerror(error.errno or 0)}") from error
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)


def _told(reports: list[Report]) -> dict[str, Any]:
    return {
        "format": 1,
        "samples": sum(report.samples for report in reports),
        "errors": sum(report.number_of("error") for report in reports),
        "warnings": sum(report.number_of("warning") for report in reports),
        "checked": [report.as_dict() for report in reports],
    }


def _write_json(path: str, told: dict[str, Any]) -> None:
    import json

    with _file(path) as file:
        json.dump(told, file, indent=1)
        file.write("\n")


def _print_json(told: dict[str, Any]) -> None:
    import json

    json.dump(told, sys.stdout)
    sys.stdout.write("\n")
