"""Asking: tried again, given up, stopped, and each answer kept once."""

import asyncio
import signal
import threading

import pytest

from llava_kit.core.teacher import TeacherAnswer, TeacherError
from llava_kit.datagen.run import Hooks, generate
from llava_kit.errors import LlavaKitError


class Faulty:
    """Raises what `faults` says for the first tries of each request, then answers."""

    def __init__(self, say, *faults):
        self.say, self.faults, self.seen = say, faults, {}

    def __call__(self, request):
        number = self.seen[request.key] = self.seen.get(request.key, 0) + 1
        if number <= len(self.faults):
            raise self.faults[number - 1]
        return self.say(request)


def trouble(reason, transient=True, wait=None):
    return TeacherError(reason, f"said {reason}", transient=transient, wait=wait)


def test_troubles_pass_and_are_told_once(make_options, pictures, said, good_answer):
    teacher = said(Faulty(good_answer, trouble("server"), trouble("rate_limit", wait=0.001), trouble("connection")))
    told = []
    result = generate(make_options(types={"detail": 6}), source=pictures(), teacher=teacher, hooks=Hooks(tell=told.append))
    assert result.exit_code == 0
    assert result.asked.asked == 6
    assert result.asked.tries == len(teacher.asked) == 24
    assert result.asked.troubles == {"server": 6, "rate_limit": 6, "connection": 6}
    assert sorted(line.partition(":")[0] for line in told) == ["connection", "rate_limit", "server"]


def test_never_more_at_a_time_than_the_recipe_says(make_options, pictures, said):
    teacher = said(delay=0.001)
    generate(make_options(types={"detail": 30}, concurrency=3), source=pictures(30), teacher=teacher)
    assert teacher.most == 3


def test_what_is_given_up_is_told_and_asked_the_next_time(make_options, pictures, said, good_answer):
    fault = trouble("refused", transient=False)

    def say(request):
        if "cat 3 " in request.messages[-1].content:
            raise fault
        return good_answer(request)

    options = make_options(types={"detail": 6})
    first = generate(options, source=pictures(), teacher=said(say))
    assert first.exit_code == 1
    assert [(failure.id, failure.reason) for failure in first.asked.failures.values()] == [("p3", "refused")]
    assert '"p3"' in (first.folder / "failed.jsonl").read_text()
    assert first.written is not None
    assert first.written.unanswered == 1
    teacher = said()
    second = generate(options, source=pictures(), teacher=teacher)
    assert second.exit_code == 0
    assert len(teacher.asked) == 1
    assert not (first.folder / "failed.jsonl").exists()


def test_a_key_that_is_not_accepted_ends_it_at_once(make_options, pictures, said, good_answer):
    answered = []

    def say(request):
        if len(answered) == 5:
            raise trouble("credentials", transient=False)
        answered.append(request.key)
        return good_answer(request)

    options, teacher = make_options(types={"detail": 40}, concurrency=2), said(say)
    with pytest.raises(LlavaKitError, match="said credentials; 5 answers of this run are kept") as error:
        generate(options, source=pictures(40), teacher=teacher)
    assert error.value.exit_code == 2
    assert len(teacher.asked) <= 7
    again = said()
    generate(options, source=pictures(40), teacher=again)
    assert len(again.asked) == 35
    assert not set(answered) & {request.key for request in again.asked}


def test_who_never_answers_is_not_asked_for_ever(make_options, pictures, said):
    teacher = said(lambda request: (_ for _ in ()).throw(trouble("connection")))
    with pytest.raises(LlavaKitError, match="no answer to 2 tries: said connection") as error:
        generate(make_options(types={"detail": 40}, tries=2, concurrency=4), source=pictures(40), teacher=teacher)
    assert error.value.exit_code == 1
    assert len(teacher.asked) <= 8


def test_ten_that_fail_in_a_row_are_no_accident(make_options, pictures, said):
    teacher = said(lambda request: (_ for _ in ()).throw(trouble("refused", transient=False)))
    with pytest.raises(LlavaKitError, match="10 requests in a row"):
        generate(make_options(types={"detail": 40}, concurrency=1), source=pictures(40), teacher=teacher)
    assert len(teacher.asked) == 10


def test_a_teacher_that_hangs(make_options, pictures, said, good_answer):
    class Hangs(said):
        async def answer(self, request):
            if len(self.asked) == 2:
                self.asked.append(request)
                await asyncio.sleep(3600)
            return await super().answer(request)

    result = generate(make_options(types={"detail": 6}, timeout=0.05), source=pictures(), teacher=Hangs())
    assert result.asked.troubles == {"timeout": 1}
    assert result.asked.asked == 6


def test_the_same_request_of_two_samples_is_asked_once(make_options, pictures, said):
    class Twins(pictures):
        def __getitem__(self, index):
            return super().__getitem__(index // 2)

    teacher = said(delay=0.001)
    result = generate(make_options(types={"detail": 6}), source=Twins(6), teacher=teacher)
    assert len(teacher.asked) == 3
    assert result.written is not None
    assert result.written.rejected == {"duplicate": 3}


def test_it_stops_before_max_cost_is_passed(make_options, pictures, said, good_answer):
    options = make_options(types={"detail": 40}, price={"input": 100, "output": 1000}, max_cost=4.0, max_tokens=100)

    def say(request):
        return TeacherAnswer(good_answer(request), "m", "stop", 2000, 100)

    result = generate(options, source=pictures(40), teacher=said(say))
    assert result.asked.stopped == "max_cost"
    assert result.exit_code == 1
    assert result.cost is not None
    assert 3.0 < result.cost <= 4.0  # 0.3 for each answer; an estimate keeps one or two of them back
    assert result.written is not None
    assert sum(result.written.rows.values()) == result.asked.asked
    assert result.written.unanswered == 40 - result.asked.asked
    assert "pass max_cost 4" in result.asked.message


def test_ctrl_c_waits_for_what_is_on_its_way(make_options, pictures, said, good_answer):
    def say(request):
        if len(teacher.asked) == 8:
            threading.Thread(target=signal.raise_signal, args=(signal.SIGINT,)).start()
        return good_answer(request)

    teacher, told = said(say, delay=0.02), []
    options = make_options(types={"detail": 40}, concurrency=4)
    before = signal.getsignal(signal.SIGINT)
    result = generate(options, source=pictures(40), teacher=teacher, hooks=Hooks(tell=told.append))
    assert signal.getsignal(signal.SIGINT) is before
    assert result.exit_code == 130
    assert result.asked.asked == len(teacher.asked) < 40
    assert result.written is None
    assert any("on their way" in line for line in told)
    again = said()
    generate(options, source=pictures(40), teacher=again)
    assert len(again.asked) == 40 - result.asked.asked


def test_a_fault_of_a_plugin_loses_nothing(make_options, pictures, said, good_answer):
    def say(request):
        if len(teacher.asked) == 4:
            raise ZeroDivisionError("oh")
        return good_answer(request)

    teacher, options = said(say), make_options(types={"detail": 6}, concurrency=1)
    with pytest.raises(ZeroDivisionError):
        generate(options, source=pictures(), teacher=teacher)
    again = said()
    generate(options, source=pictures(), teacher=again)
    assert len(again.asked) == 3
