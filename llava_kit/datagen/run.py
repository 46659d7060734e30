"""Making training data: look through the source, ask what is not known, write what can be learnt from."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..assemble.build import build_part, build_source
from ..core.source import DataSource
from ..core.teacher import Teacher
from ..errors import DataError, LlavaKitError
from ..recipe.generate import Generate
from .answers import Answers
from .ask import FATAL, Asked, Asker
from .cost import cost_of
from .judge import reasons
from .plan import Asking, Plan, Skipped, look_through, make_plan, nothing_usable
from .prompt_set import PromptSet, load_prompts
from .write import FAILED, SKIPPED, Writer, Written, write_lines

ANSWERS, SETTINGS, SUMMARY = "answers.jsonl", "generate.json", "summary.json"
WORKERS = "workers"  # each worker of Ray keeps its answers here until they have come home

Show = Callable[..., None]
Progress = Callable[[str, str], Any]


def _quiet(_what: str, _unit: str) -> Any:
    @contextmanager
    def silent() -> Iterator[Show]:
        yield lambda *_: None

    return silent()


@dataclass
class Hooks:
    """How a run speaks to people: `progress(what, unit)` gives a context with `show(done, total, note)`, `tell` says a line."""

    progress: Progress = _quiet
    tell: Callable[[str], None] = field(default=lambda _line: None)


@dataclass
class Result:
    """What a run came to. `exit_code` is that of the command line."""

    folder: Path
    tasks: int
    pictures: int
    skipped: list[Skipped]
    asked: Asked
    written: Written | None
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: int = 0
    cost: float | None = None

    @property
    def exit_code(self) -> int:
        stopped = self.asked.stopped
        if stopped is not None and stopped.startswith("signal"):
            return 128 + int(stopped.split()[1])
        if stopped in FATAL:
            return 2
        return 1 if stopped or self.asked.failures else 0


class Work:
    """All that is known before the first question: parts, prompts, the plan, and the answers that were given before."""

    def __init__(
        self,
        options: Generate,
        hooks: Hooks | None = None,
        source: DataSource | None = None,
        teacher: Teacher | None = None,
        answers: str | os.PathLike[str] | None = None,
        *,
        looking: bool = False,
        asks: bool = False,
    ):
        """`answers`: a journal elsewhere than in the folder of the options; `looking`: nothing is noted in the folder; `asks`:
        the teacher must be ready.
        """
        self.options, self.hooks = options, hooks or Hooks()
        self.folder = Path(options.to)
        self.prompts: PromptSet = load_prompts(options.prompts, options.wanted)
        self.teacher: Teacher = build_part("teacher", options.teacher) if teacher is None else teacher
        self.source: DataSource = build_source(options.source) if source is None else source
        if asks:
            self.teacher.ready()
        self.asking = Asking(options, self.prompts, self.teacher.fingerprint())
        if answers is None:
            _check_folder(self.folder)
        self.answers = Answers(self.folder / ANSWERS if answers is None else answers)
        try:
            if answers is None:
                self._settings(write=not looking)
                self.adopt_workers()
            self.plan, self.skipped, self.without_boxes = self._look()
        except BaseException:
            self.answers.close()
            raise

    def _look(self) -> tuple[Plan, list[Skipped], int]:
        count = min(len(self.source), self.options.samples or len(self.source))
        with self.hooks.progress("look through", "samples") as show:
            usable, skipped, without_boxes = look_through(self.source, count, show)
        if not len(usable):
            raise nothing_usable(skipped)
        if without_boxes and set(self.options.wanted) != {"conversation"}:
            # Descriptions and reasoning can be written from captions alone, but know no places then.
            self.hooks.tell(f"{without_boxes} of {len(usable)} pictures have no boxes: captions are all that is told of them")
        return make_plan(usable, self.options), skipped, without_boxes

    def adopt_workers(self) -> None:
        """Takes in what workers of Ray had kept when their program was killed."""
        for path in sorted((self.folder / WORKERS).glob("*.jsonl")):
            with open(path, "rb") as file:
                file.readline()  # what the journal is of
                for line in file:
                    if line.endswith(b"\n"):
                        self.answers.adopt(json.loads(line))

    def _settings(self, write: bool) -> None:
        """Refuses a folder of other pictures; tells what else is not as it was the last time, and writes how it is now."""
        path = self.folder / SETTINGS
        now = {
            "source": self.options.source.model_dump(),
            "teacher": self.teacher.fingerprint(),
            "prompts": dict(self.prompts.digests),
            "sampling": [self.options.seed, self.options.temperature, self.options.max_tokens],
        }
        then = _read_settings(path)
        if then is not None:
            now = json.loads(json.dumps(now))
            if then["source"] != now["source"] and len(self.answers):
                raise DataError(
                    f"{self.folder}: was begun with the source {json.dumps(then['source'])}, and this is "
                    f"{json.dumps(now['source'])}; name another folder"
                )
            old = then["prompts"]
            now_prompts = {type: digest for type, digest in now["prompts"].items() if type in old}
            then["prompts"] = {type: old[type] for type in now_prompts}  # another type is no change
            changed = [key for key in now if then.get(key) != (now_prompts if key == "prompts" else now[key])]
            if changed:
                self.hooks.tell(f"changed since the last run here: {', '.join(changed)}; only what is not known is asked")
        if not write:
            return
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, path)

    def result(self, asked: Asked) -> Result:
        """Writes the rows, unless the run was interrupted or asked in vain; and what is to be told."""
        options, answers = self.options, self.answers
        written = None
        if asked.stopped in (None, "max_cost"):
            writer = Writer(self.folder, self.asking, options.annotations, options.judge.duplicates)
            with self.hooks.progress("write", "answers") as show:
                written = writer.write(self.plan, self.source, answers, show)
        skipped = [*self.skipped, *(written.skipped if written else ())]
        cost = None if options.price is None else cost_of(options.price, answers.input_tokens, answers.output_tokens)
        result = Result(self.folder, len(self.plan), self.plan.pictures, skipped, asked, written)
        result.input_tokens, result.output_tokens = answers.input_tokens, answers.output_tokens
        result.estimated, result.cost = answers.estimated, cost
        write_lines(self.folder / SKIPPED, (sample._asdict() for sample in skipped))
        write_lines(self.folder / FAILED, ({"key": key, **vars(failure)} for key, failure in asked.failures.items()))
        if written is not None:
            _write_summary(result)
        return result

    def close(self) -> None:
        self.answers.close()

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def generate(
    options: Generate, *, source: DataSource | None = None, teacher: Teacher | None = None, hooks: Hooks | None = None
) -> Result:
    """Asks all that is not known yet, and writes `options.to`: data.jsonl, pictures, and what was not taken.

    `source` and `teacher` are built from their blocks unless given. The same folder goes on where it stopped: whatever answer
    came is in answers.jsonl at once, and nothing in it is asked again.

    Raises:
        DataError: nothing can be asked about; a folder of something else; prompts with mistakes.
        LlavaKitError: the teacher cannot be asked at all (a key, an address); what was answered until then is kept.
    """
    with Work(options, hooks, source, teacher, asks=True) as work:
        return finished(work, asyncio.run(_ask(work)))


def finished(work: Work, asked: Asked) -> Result:
    """The result, written. Raises `LlavaKitError` where the teacher could not be asked at all."""
    result = work.result(asked)
    if asked.stopped in FATAL or asked.stopped == "no_answers":
        error = LlavaKitError(f"{asked.message}; {kept(result)}")
        error.exit_code = result.exit_code
        raise error
    return result


def kept(result: Result) -> str:
    """What a run that did not come to its end leaves behind."""
    if not result.asked.asked:
        return "nothing was answered; the same command begins again"
    return (
        f"{result.asked.asked} answers of this run are kept in {result.folder / ANSWERS}: the same command goes on from there"
    )


async def _ask(work: Work) -> Asked:
    with work.hooks.progress("ask", "answers") as show:
        asker = Asker(work.options, work.asking, work.source, work.teacher, work.answers, show=show, tell=work.hooks.tell)
        with _heard(asker):
            try:
                return await asker.run(work.plan, len(work.plan))
            finally:
                await work.teacher.close()


@contextmanager
def _heard(asker: Asker) -> Iterator[None]:
    """Ctrl-C and termination: what is on its way comes home, then it ends. A second signal ends the program at once."""
    loop, heard = asyncio.get_running_loop(), []

    def hear(number: int) -> None:
        asker.stop(f"signal {number}", f"stopped by signal {number}")
        asker.tell("stopping: the requests on their way are waited for; once more ends at once")
        for each in heard:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        heard.clear()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        # Not in the main thread, or not on this system: then nothing is heard, and Python's own way stays.
        with suppress(ValueError, RuntimeError, NotImplementedError):
            loop.add_signal_handler(number, hear, number)
            heard.append(number)
    asked = list(heard)
    try:
        yield
    finally:
        for number in list(heard):
            loop.remove_signal_handler(number)
        for number in asked:
            signal.signal(number, before[number])


def _read_settings(path: Path) -> dict[str, Any] | None:
    """What was set the last time; None where nothing is known of it. What was asked is in the answers' own keys."""
    with suppress(FileNotFoundError, ValueError, RecursionError):
        then = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(then, dict) and "source" in then and isinstance(then.get("prompts"), dict):
            return then
    return None


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; expected a folder, new or of this work")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ANSWERS).exists():
        raise DataError(f"{folder}: is not empty and holds no {ANSWERS}; expected a new folder, or that of an earlier run")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {error.strerror}") from None


def _write_summary(result: Result) -> None:
    assert result.written is not None
    told = {
        "complete": not result.asked.stopped and not result.written.unanswered,
        "pictures": result.pictures,
        "wanted": result.tasks,
        "rows": result.written.rows,
        "rejected": dict(sorted(result.written.rejected.items())),
        "unanswered": result.written.unanswered,
        "skipped": reasons(sample.reason for sample in result.skipped),
        "tokens": {"input": result.input_tokens, "output": result.output_tokens, "answers_estimated": result.estimated},
        "cost": result.cost,
    }
    (result.folder / SUMMARY).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
