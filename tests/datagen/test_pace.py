"""How fast a teacher is asked, by a clock that only sleeping moves."""

import asyncio

from llava_kit.datagen.pace import ANSWERS_TO_RECOVER, Bucket, Pace, backoff


class Clock:
    """A loop whose time runs as fast as it can."""

    def run(self, work):
        loop = asyncio.new_event_loop()
        self.time, self.select = 0.0, loop._selector.select
        loop._selector.select = self._select
        loop.time = lambda: self.time
        try:
            return loop.run_until_complete(work(self))
        finally:
            loop.close()

    def _select(self, timeout):
        self.time += timeout or 0.0
        return self.select(0)


def enter_all(count, tokens=1.0, hold=0.0, **limits):
    """The times at which `count` requests went in, and the most that were inside."""

    async def work(clock):
        pace, times, most = Pace(**limits), [], 0

        async def one():
            nonlocal most
            await pace.enter(tokens)
            times.append(clock.time)
            most = max(most, pace.inside)
            await asyncio.sleep(hold)
            pace.leave()

        await asyncio.gather(*(one() for _ in range(count)))
        return times, most

    return Clock().run(work)


def test_never_more_at_a_time():
    times, most = enter_all(20, hold=1.0, concurrency=4)
    assert most == 4
    assert times[-1] == 4.0


def test_requests_a_minute_in_every_minute():
    times, _ = enter_all(200, concurrency=50, requests_per_minute=60)
    for start in times:
        assert sum(start <= time < start + 60 for time in times) <= 61
    assert 190 < times[-1] < 200


def test_tokens_a_minute_and_requests_larger_than_what_is_saved_up():
    times, _ = enter_all(10, tokens=1000, concurrency=50, tokens_per_minute=6000)
    assert 85 < times[-1] < 95


def test_what_was_not_used_comes_back():
    bucket = Bucket(600, lambda: 0.0)
    bucket.take(100)
    assert bucket.wait(1) > 0
    bucket.take(-100)
    assert bucket.wait(1) == 0


def test_after_a_refusal_nobody_goes_in_and_then_half_as_many():
    async def work(clock):
        pace = Pace(concurrency=8)
        for _ in range(8):
            await pace.enter(0)
        for _ in range(8):
            pace.refused(5.0)  # all that were inside: one refusal
            pace.leave()
        assert pace.limit == 4
        await pace.enter(0)
        assert clock.time == 5.0
        for _ in range(ANSWERS_TO_RECOVER):
            pace.answered()
        assert pace.limit == 5
        pace.refused(10**6)
        pace.leave()
        await pace.enter(0)
        assert clock.time == 605.0  # not for eleven days
        return True

    assert Clock().run(work)


def test_backoff_grows_and_is_drawn_from_the_key():
    waits = [backoff("ab", tries, 1.0) for tries in range(1, 12)]
    assert all(2 ** (n - 1) / 2 <= wait <= 2 ** (n - 1) for n, wait in enumerate(waits[:6], 1))
    assert max(waits) <= 60
    assert waits == [backoff("ab", tries, 1.0) for tries in range(1, 12)]
    assert backoff("cd", 1, 1.0) != waits[0]
