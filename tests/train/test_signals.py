"""A wish to stop is heard once, and given back."""

from __future__ import annotations

import os
import signal
import threading

from llava_kit.train.signals import Interrupted, StopRequest


def test_the_first_signal_is_a_wish_and_the_second_one_is_the_systems():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert stop.number is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_exit_code_is_the_shells():
    assert Interrupted(signal.SIGINT, "").exit_code == 130
    assert Interrupted(signal.SIGTERM, "").exit_code == 143


def test_outside_the_main_thread_nothing_is_touched():
    handlers = []

    def enter():
        with StopRequest():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]
