"""The same asking on Ray Data, over many machines: workers ask with the code that asks here, answers come home to one file."""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..assemble.build import build_part, build_source
from ..core.source import DataSource
from ..core.teacher import Teacher, TeacherRequest
from ..errors import PluginError
from ..recipe.generate import Generate
from .answers import Answers
from .ask import Asked, Asker, Failure
from .cost import cost_of
from .plan import Asking, Task
from .prompt_set import PromptSet
from .run import WORKERS, Hooks, Result, Work, finished

# So many tasks go to a worker at a time, for each request that it may have on its way: enough to keep it busy.
TASKS_PER_SLOT = 4


class Worker:
    """One process of Ray: asks batches of tasks as `Asker` does, with its share of what all may do at once.

    It keeps each answer on disk the moment it is here: in the folder of the work where this machine has it, so that a killed
    program finds it there; else in a temporary one.
    """

    def __init__(self, options: Generate, prompts: PromptSet):
        self.options = options
        self.teacher: Teacher = build_part("teacher", options.teacher)
        self.source: DataSource = build_source(options.source)
        self.asking = Asking(options, prompts, self.teacher.fingerprint())
        self._temporary = None if Path(options.to).is_dir() else TemporaryDirectory()
        home = Path(options.to if self._temporary is None else self._temporary.name)
        self.answers = _Recorder(home / WORKERS / f"{uuid.uuid4().hex}.jsonl")

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        rows = zip(batch["index"].tolist(), batch["type"].tolist(), batch["turn"].tolist(), strict=True)
        asked = asyncio.run(self._ask([Task(*row) for row in rows]))
        entries, self.answers.entries = self.answers.entries, []
        lines: list[dict[str, Any]] = [{"entry": entry} for entry in entries]
        lines += [{"key": key, "failure": vars(failure)} for key, failure in asked.failures.items()]
        lines.append({name: getattr(asked, name) for name in ("tries", "troubles", "stopped", "message")})
        return {"line": [json.dumps(line) for line in lines]}

    async def _ask(self, tasks: list[Task]) -> Asked:
        def silent(*_: object) -> None:
            return None

        asker = Asker(self.options, self.asking, self.source, self.teacher, self.answers, show=silent, tell=silent)
        try:
            return await asker.run(tasks, len(tasks))
        finally:
            await self.teacher.close()  # connections belong to this batch's loop


class _Recorder(Answers):
    """Answers that also hand on what they took."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.entries: list[Any] = []

    def adopt(self, entry: Any) -> bool:
        self.entries.append(entry)
        return super().adopt(entry)


def generate_on_ray(options: Generate, *, workers: int | None = None, hooks: Hooks | None = None) -> Result:
    """As `run.generate`, asked by `workers` processes of Ray (default: one for each CPU); a cluster that is there is used.

    `concurrency`, the limits of the rate and `max_cost` are of all workers together, an equal share for each.

    Raises:
        PluginError: Ray is not installed.
        LlavaKitError: as `run.generate`.
    """
    ray = _ray()
    with Work(options, hooks, asks=True) as work:
        asked = Asked()
        tasks = _unknown(work)
        if tasks:
            started = not ray.is_initialized()
            if started:
                ray.init(logging_level="error", log_to_driver=False, include_dashboard=False)
            try:
                asked = _collect(work, _batches(ray, work, tasks, workers), len(tasks))
            finally:
                if started:
                    ray.shutdown()
        shutil.rmtree(work.folder / WORKERS, ignore_errors=True)  # all of it has come home
        return finished(work, asked)


def _unknown(work: Work) -> list[Task]:
    """The tasks that are not settled by the answers that are here, one for each request."""
    tasks, seen = [], set()
    for task in work.plan:
        request = work.asking.settle(task, work.source[task.index], work.answers.get)
        if isinstance(request, TeacherRequest) and request.key not in seen:
            seen.add(request.key)
            tasks.append(task)
    return tasks


def _batches(ray: Any, work: Work, tasks: list[Task], workers: int | None) -> Iterator[dict[str, Any]]:
    """What workers say, batch by batch as they come home."""
    options = work.options
    ray.data.DataContext.get_current().enable_progress_bars = False
    count = min(workers or int(ray.cluster_resources().get("CPU", 1)), options.concurrency, len(tasks))
    share = options.model_copy(update=_share(options, count, work))
    size = share.concurrency * TASKS_PER_SLOT
    data = ray.data.from_items([task._asdict() for task in tasks], override_num_blocks=max(1, -(-len(tasks) // size)))
    said = data.map_batches(
        Worker,
        fn_constructor_args=(share, work.prompts),
        batch_size=size,
        compute=ray.data.ActorPoolStrategy(size=count),
    )
    return iter(said.iter_batches(batch_size=None, batch_format="numpy"))


def _share(options: Generate, count: int, work: Work) -> dict[str, Any]:
    """What one of `count` workers may do. What was spent before is taken off the limit."""
    share: dict[str, Any] = {"concurrency": max(1, options.concurrency // count), "to": str(work.folder.resolve())}
    for name in ("requests_per_minute", "tokens_per_minute"):
        limit = getattr(options, name)
        share[name] = None if limit is None else limit / count
    if options.max_cost is not None and options.price is not None:
        spent = cost_of(options.price, work.answers.input_tokens, work.answers.output_tokens)
        share["max_cost"] = max(options.max_cost - spent, 0.0) / count
    return share


def _collect(work: Work, batches: Iterator[dict[str, Any]], total: int) -> Asked:
    """Keeps what comes home. When one worker has to stop, what the others say until then is kept too."""
    asked = Asked()
    with work.hooks.progress("ask", "answers") as show:
        for batch in batches:
            for text in batch["line"]:
                _take(work, json.loads(text), asked)
            show(asked.asked + len(asked.failures), total)
            if asked.stopped is not None:
                break
    work.adopt_workers()
    return asked


def _take(work: Work, line: dict[str, Any], asked: Asked) -> None:
    if "entry" in line:
        asked.asked += work.answers.adopt(line["entry"])
    elif "failure" in line:
        asked.failures[line["key"]] = Failure(**line["failure"])
    else:
        asked.tries += line["tries"]
        for reason, number in line["troubles"].items():
            asked.troubles[reason] = asked.troubles.get(reason, 0) + number
        if line["stopped"]:
            asked.stopped, asked.message = line["stopped"], line["message"]


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise PluginError("--ray: Ray is not installed; run `pip install 'llava-kit[ray]'`") from None
    return ray
