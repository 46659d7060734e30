"""How fast a teacher may be asked: so many at once, so many requests and tokens a minute, slower when it says so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

# Each refusal halves what is asked at once; so many answers in a row let one more in again.
ANSWERS_TO_RECOVER = 8
LONGEST_WAIT = 600.0  # seconds: who says "come back tomorrow" is asked again after ten minutes, and given up after some tries
LONGEST_BACKOFF = 60.0
MINUTE = 60.0


class Bucket:
    """What comes back with time: `rate` a minute, hardly anything saved up, so that every minute keeps to the rate."""

    def __init__(self, rate: float | None, clock: Callable[[], float]):
        self.rate, self._clock = rate, clock
        self._size = max(1.0, (rate or 0.0) / 600)  # a tenth of a second's worth
        self._level, self._time = self._size, clock()

    def wait(self, amount: float) -> float:
        """Seconds until `amount` may be taken; an amount above the bucket's size waits for a full one and leaves a debt."""
        if self.rate is None:
            return 0.0
        self._fill()
        short = min(amount, self._size) - self._level
        return max(0.0, short * MINUTE / self.rate)

    def take(self, amount: float) -> None:
        """Takes, or with a negative amount gives back."""
        if self.rate is not None:
            self._fill()
            self._level = min(self._size, self._level - amount)

    def _fill(self) -> None:
        now = self._clock()
        assert self.rate is not None
        self._level = min(self._size, self._level + (now - self._time) * self.rate / MINUTE)
        self._time = now


class Pace:
    """Lets requests in. Never more than `concurrency` are inside; after a refusal nobody goes in before its time is over."""

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] | None = None,
    ):
        self._clock = clock or asyncio.get_running_loop().time
        self.concurrency, self.limit, self.inside = concurrency, float(concurrency), 0
        self._requests = Bucket(requests_per_minute, self._clock)
        self._tokens = Bucket(tokens_per_minute, self._clock)
        self._closed_until, self._answers = 0.0, 0
        self._changed = asyncio.Event()
        self.refusals = 0

    async def enter(self, tokens: float) -> None:
        """Returns when a request of so many tokens may go out; `leave` must follow."""
        while (wait := self._wait(tokens)) != 0.0:
            self._changed.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                pass
        self.inside += 1
        self._requests.take(1)
        self._tokens.take(tokens)

    def _wait(self, tokens: float) -> float | None:
        """Seconds until there may be room; None: until somebody leaves."""
        if self.inside >= int(self.limit):
            return None
        closed = self._closed_until - self._clock()
        return max(closed, self._requests.wait(1), self._tokens.wait(tokens), 0.0)

    def leave(self, tokens: float = 0.0) -> None:
        """A request is over; `tokens` more were used than it had said."""
        self.inside -= 1
        self._tokens.take(tokens)
        self._changed.set()

    def answered(self) -> None:
        """An answer came: after some, one more may be asked at once again."""
        self._answers += 1
        if self._answers >= ANSWERS_TO_RECOVER and self.limit < self.concurrency:
            self._answers, self.limit = 0, min(float(self.concurrency), self.limit + 1)
            self._changed.set()

    def refused(self, wait: float) -> None:
        """The endpoint said that it is asked too much: nobody goes in for so long, and then half as many at once."""
        now = self._clock()
        if now >= self._closed_until:  # those who were inside are refused together, and that is one refusal
            self.limit = max(1.0, self.limit / 2)
        self._closed_until = max(self._closed_until, now + min(wait, LONGEST_WAIT))
        self._answers, self.refusals = 0, self.refusals + 1


def backoff(key: str, tries: int, first: float) -> float:
    """Seconds before try number `tries` + 1: doubled each time, and between half and all of it, drawn from the key."""
    longest = min(LONGEST_BACKOFF, first * 2 ** (tries - 1))
    return longest * (0.5 + 0.5 * random.Random(f"{key} {tries}").random())
