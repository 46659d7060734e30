"""Asks a teacher all that is not known yet: many at once, paced, tried again, and every answer kept the moment it is here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ..core.source import DataSource
from ..core.teacher import Teacher, TeacherAnswer, TeacherError, TeacherRequest
from ..errors import first_line
from ..recipe.generate import Generate
from .answers import Answers
from .cost import Budget, tokens_of
from .pace import Pace, backoff
from .plan import Asking, Task

Show = Callable[..., None]
Tell = Callable[[str], None]

# What is wrong with every request alike: asking on would only cost time, or lock an account.
FATAL = frozenset(["credentials", "not_found", "quota", "address"])
# Who says "too fast" is not failing: such tries count a quarter, so that a busy hour spoils nothing.
REFUSALS_PER_TRY = 4
# So many requests given up one after another, with no answer between, are no accident of single requests.
FAILURES_TO_STOP = 10


@dataclass
class Failure:
    """A request that this run gave up."""

    id: str
    type: str
    reason: str
    message: str


@dataclass
class Asked:
    """What came of asking. `stopped` is None, or why it ended early: `signal 2`, `max_cost`, `no_answers`, a fatal reason."""

    asked: int = 0
    tries: int = 0
    failures: dict[str, Failure] = field(default_factory=dict)
    troubles: dict[str, int] = field(default_factory=dict)
    stopped: str | None = None
    message: str = ""
    seconds: float = 0.0


class Asker:
    """One round of asking. Answers go into `answers`; nothing that it knows is asked."""

    def __init__(
        self,
        options: Generate,
        asking: Asking,
        source: DataSource,
        teacher: Teacher,
        answers: Answers,
        *,
        show: Show,
        tell: Tell,
    ):
        self.options, self.asking, self.source = options, asking, source
        self.teacher, self.answers, self.show, self.tell = teacher, answers, show, tell
        self.budget = Budget(options.price, options.max_cost, answers)
        self.asked = Asked()
        self._flying: dict[str, asyncio.Event] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._workers: list[asyncio.Task[None]] = []
        self._failed_in_a_row = self._done = 0
        self._came_back = asyncio.Event()

    async def run(self, tasks: Iterable[Task], total: int) -> Asked:
        """Asks until everything is known, or given up, or it was stopped."""
        start = time.perf_counter()
        options = self.options
        self._pace = Pace(options.concurrency, options.requests_per_minute, options.tokens_per_minute)
        shared = iter(tasks)
        self._total = total
        self._workers = [asyncio.create_task(self._work(shared)) for _ in range(min(options.concurrency, max(total, 1)))]
        try:
            ended = await asyncio.gather(*self._workers, return_exceptions=True)
        finally:
            for worker in self._workers:
                worker.cancel()
        for error in ended:
            if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
                raise error
        self.asked.seconds = time.perf_counter() - start
        return self.asked

    def stop(self, reason: str, message: str) -> None:
        """No more requests go out; those that are on their way come home. May be called from a signal's handler in the loop."""
        if self.asked.stopped is not None:
            return
        self.asked.stopped, self.asked.message = reason, message
        for worker in self._workers:
            if worker not in self._sending and worker is not asyncio.current_task():
                worker.cancel()

    async def _work(self, tasks: Iterator[Task]) -> None:
        try:
            for task in tasks:
                if not await self._finish(task):
                    return
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # a fault of ours or of a plugin: the others must not go on for an hour first
            self.stop("error", first_line(error))
            raise

    async def _finish(self, task: Task) -> bool:
        """Asks until the task is settled or given up. False: stop working."""
        sample = self.source[task.index]
        while isinstance(request := self.asking.settle(task, sample, self.answers.get), TeacherRequest):
            if self.asked.stopped is not None:
                return False
            if request.key in self.asked.failures:
                break
            if request.key in self._flying:  # the same request for another task: asked once
                await self._flying[request.key].wait()
                continue
            landed = self._flying[request.key] = asyncio.Event()
            try:
                error = await self._ask(request)
            finally:
                del self._flying[request.key]
                landed.set()
            if error is not None and not self._give_up(request, sample.id, error):
                return False
        self._done += 1
        self._show()
        await asyncio.sleep(0)  # where all is known, signals want to be heard too
        return True

    def _show(self) -> None:
        spent = self.budget.spent
        self.show(self._done, self._total, "" if spent is None else f"cost {spent:.2f}")

    def _give_up(self, request: TeacherRequest, id: str, error: TeacherError) -> bool:
        """Notes a request that was not answered. False where the whole run is to end."""
        if error.reason in FATAL:
            self.stop(error.reason, str(error))
            return False
        if self.asked.stopped is not None:
            return False
        self.asked.failures[request.key] = Failure(id, request.type, error.reason, str(error))
        self._failed_in_a_row += 1
        if not self.asked.asked and error.transient:
            self.stop("no_answers", f"no answer to {self.options.tries} tries: {error}")
        elif self._failed_in_a_row >= FAILURES_TO_STOP:
            self.stop("no_answers", f"{self._failed_in_a_row} requests in a row were given up; the last: {error}")
        return self.asked.stopped is None

    async def _ask(self, request: TeacherRequest) -> TeacherError | None:
        """Sends the request until it is answered, and keeps the answer; or gives the error for which it is given up."""
        tries = refusals = 0
        while True:
            try:
                answer = await self._send(request)
            except TeacherError as error:
                self._note(error)
                if error.reason == "rate_limit":
                    refusals += 1
                    self._pace.refused(error.wait if error.wait is not None else backoff(request.key, refusals, 1.0))
                else:
                    tries += 1
                out = tries + refusals / REFUSALS_PER_TRY >= self.options.tries
                if not error.transient or out or self.asked.stopped is not None:
                    return error
                if error.reason != "rate_limit":
                    wait = error.wait if error.wait is not None else backoff(request.key, tries, self.options.backoff)
                    await asyncio.sleep(wait)
                continue
            if answer is None:
                return TeacherError("stopped", self.asked.message, transient=True)
            self._failed_in_a_row = 0
            self.asked.asked += 1
            return None

    def _note(self, error: TeacherError) -> None:
        """Counts a trouble, and tells each kind once: who waits wants to know why."""
        known = self.asked.troubles
        if error.transient and error.reason not in known and self.asked.stopped is None:
            self.tell(f"{error.reason}: {error}; it is tried again")
        known[error.reason] = known.get(error.reason, 0) + 1

    async def _send(self, request: TeacherRequest) -> TeacherAnswer | None:
        """One try. None when asking was stopped before it went out."""
        most = self.budget.most(request)
        while not self.budget.reserve(most):
            if not self._sending:
                self.stop("max_cost", f"the next answer might pass max_cost {self.options.max_cost:g}")
            if self.asked.stopped is not None:
                return None
            self._came_back.clear()
            await self._came_back.wait()
        try:
            tokens = tokens_of(request, self.answers)
            await self._pace.enter(tokens)
            try:
                answer = await self._in_flight(request)
                used = answer.input_tokens + answer.output_tokens
                tokens = (used or tokens) - tokens
            except TeacherError:
                tokens = 0.0
                raise
            finally:
                self._pace.leave(tokens)
            self._pace.answered()
            return answer
        finally:
            self.budget.release(most)
            self._came_back.set()

    async def _in_flight(self, request: TeacherRequest) -> TeacherAnswer:
        """The answer, kept. A worker that is here is not cancelled by `stop`: what is paid for comes home."""
        worker = asyncio.current_task()
        assert worker is not None
        self._sending.add(worker)
        self.asked.tries += 1
        try:
            async with asyncio.timeout(self.options.timeout):
                answer = await self.teacher.answer(request)
        except TimeoutError:
            seconds = self.options.timeout
            raise TeacherError("timeout", f"no answer within {seconds:g} seconds (timeout)", transient=True) from None
        finally:
            self._sending.discard(worker)
        self.answers.add(request, answer, at=round(time.time(), 3), tries=self.asked.tries)
        return answer
