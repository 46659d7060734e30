"""Tuning by a timer that says what the test wants: right candidates alone run, more than 2 % wins, what is measured is kept."""

from __future__ import annotations

import argparse

import pytest
import torch
from triton.errors import TritonError

from llava_kit import LlavaKitError
from llava_kit_kernels import command, contest
from llava_kit_kernels.ops import choices, measurements
from llava_kit_kernels.ops import tune as module
from llava_kit_kernels.ops.choices import CUBLAS, OPS, Choice, choose
from llava_kit_kernels.ops.common import KernelInputError
from llava_kit_kernels.ops.gemm import CANDIDATES, SMALL
from llava_kit_kernels.ops.tune import Problem, Shape, llava_shapes, make_problem, tune

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SHAPE = Shape("linear_gelu", 40, 48, 32)
# The interpreter cuts float32 off to bfloat16 where hardware rounds, which is too wrong to be allowed.
HALF = torch.float16


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAVA_KIT_CACHE", str(tmp_path))
    monkeypatch.delenv("LLAVA_KIT_AUTOTUNE", raising=False)
    choices.forget()
    yield
    choices.forget()


@pytest.fixture
def device(home) -> torch.device:
    return torch.device(home, 0) if home == "cuda" else torch.device(home)


def says(**microseconds: float):
    """A timer: cuBLAS takes 100 us, the small tile what is said; every function is run once."""

    def timer(functions):
        for function in functions.values():
            function()
        return {choice: microseconds.get("cublas" if choice.tile is None else "small", 100.0) for choice in functions}

    return timer


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("microseconds", "wins"), [(50.0, True), (97.0, True), (98.5, False), (100.0, False), (150.0, False)])
def test_a_tile_wins_by_more_than_two_per_cent(op, microseconds, wins, device):
    lines: list[str] = []
    shape = SHAPE._replace(op=op)
    table = tune([shape], device, HALF, report=lines.append, timer=says(small=microseconds), tiles=[SMALL])
    expected = Choice(SMALL) if wins else CUBLAS
    assert list(table.values()) == [expected]
    assert choose(op, device, HALF, 40, 48, 32) == expected
    assert lines[0] == f"{op} 40x48x32: {expected} (cublas 100 us, {SMALL} {microseconds:.0f} us)"
    assert lines[1] == f"written to {measurements.own_path(device, choices.KIND)}: 1 of this run"


@pytest.mark.parametrize("op", OPS)
def test_every_candidate_is_right(op, device):
    seen = []

    def timer(functions):
        seen.extend(functions)
        return dict.fromkeys(functions, 1.0)

    tune([SHAPE._replace(op=op)], device, HALF, timer=timer)
    assert seen == [CUBLAS, *map(Choice, CANDIDATES)]


@pytest.mark.parametrize("wrong", [1.51, float("inf")])
def test_a_wrong_candidate_is_not_timed(wrong, device, monkeypatch):
    errors = {CUBLAS: 1.0, Choice(SMALL): wrong}
    monkeypatch.setattr(module, "make_problem", lambda *_: Problem(lambda choice: None, lambda choice: errors[choice]))
    lines: list[str] = []
    table = tune([SHAPE], device, HALF, report=lines.append, timer=says(small=1.0), tiles=[SMALL])
    assert list(table.values()) == [CUBLAS]
    assert f"{SMALL} is wrong by {wrong:.2g}, allowed 1.5" in lines[0]


def test_a_candidate_that_cannot_run_is_left_out(device, monkeypatch):
    def error(choice):
        if choice.tile is not None:
            raise TritonError("out of shared memory")
        return 1.0

    monkeypatch.setattr(module, "make_problem", lambda *_: Problem(lambda choice: None, error))
    lines: list[str] = []
    table = tune([SHAPE], device, HALF, report=lines.append, timer=says(), tiles=[SMALL])
    assert list(table.values()) == [CUBLAS]
    assert f"{SMALL} cannot run: TritonError" in lines[0]


@pytest.mark.parametrize("op", OPS)
def test_a_result_that_is_wrong_in_one_place_is_seen(op, device, monkeypatch):
    """The last column of the last row: the corner that a wrong mask loses."""
    real = getattr(module, op)

    def spoilt(*inputs):
        *operands, choice = inputs
        result = real(*operands, CUBLAS)
        if choice.tile is not None:
            if op == "linear_scatter":
                seats, buffer = operands[-2:]
                buffer[seats[-1].long(), -1] = float("nan")
            else:
                (result[0] if op == "linear_gelu" else result)[-1, -1] = float("nan")
        return result

    monkeypatch.setattr(module, op, spoilt)
    problem = make_problem(SHAPE._replace(op=op, m=1300), device, HALF)
    assert problem.error(CUBLAS) < 0.1
    assert problem.error(Choice(SMALL)) == float("inf")


def test_what_was_measured_before_an_interruption_is_kept(device):
    calls = []

    def timer(functions):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return says(small=1.0)(functions)

    with pytest.raises(KeyboardInterrupt):
        tune([SHAPE, SHAPE._replace(n=64)], device, HALF, timer=timer, tiles=[SMALL])
    assert choose("linear_gelu", device, HALF, 40, 48, 32) == Choice(SMALL)


def test_a_shape_that_memory_does_not_hold_is_passed_over(device, monkeypatch):
    def too_large(*_):
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr(module, "make_problem", too_large)
    lines: list[str] = []
    assert tune([SHAPE], device, HALF, report=lines.append, timer=says()) == {}
    assert lines == ["linear_gelu 40x48x32: too large for the memory of this device"]


def test_float32_has_nothing_to_tune(device):
    with pytest.raises(KernelInputError, match="float32 has nothing to tune"):
        tune([SHAPE], device, torch.float32)


def test_an_unknown_operation(device):
    with pytest.raises(KernelInputError, match="no operation 'linear'; expected linear_gelu"):
        tune([SHAPE._replace(op="linear")], device, timer=says())


def test_the_shapes_of_llava():
    shapes = llava_shapes()
    assert len(shapes) == len(set(shapes)) == (6 + 3 + 3) * 9
    assert Shape("linear_gelu", 576, 4096, 1024) in shapes
    assert Shape("linear_scatter", 92160, 7168, 7168) in shapes


# The verb


def arguments_of(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def test_the_verb_shows(capsys):
    assert command.run(arguments_of("show")) == 0
    told = capsys.readouterr().out
    assert not told or "not measured on this device" in told or "plain torch" in told


def test_the_verb_tunes(monkeypatch, capsys):
    asked = {}

    def fake(shapes, dtype, report):
        asked.update(shapes=shapes, dtype=dtype)
        report("a line")

    contests = []
    monkeypatch.setattr(module, "tune", fake)
    monkeypatch.setattr(contest, "contest", lambda **keys: contests.append(keys["dtype"]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("llava_kit_kernels.why_unavailable", lambda: None)
    command.run(arguments_of("tune", "--dtype", "float16", "--shape", "linear_gelu:4608x4096x1024"))
    assert asked == {"shapes": [Shape("linear_gelu", 4608, 4096, 1024)], "dtype": torch.float16}
    assert capsys.readouterr().out == "a line\n"
    assert contests == [torch.float16]
    command.run(arguments_of("tune"))
    assert asked == {"shapes": None, "dtype": torch.bfloat16}
    assert contests == [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("text", ["linear_gelu", "linear:1x2x3", "linear_gelu:1x2", "linear_gelu:1x0x3", "linear_gelu:1x2xk"])
def test_the_verb_tells_what_a_shape_is(text):
    with pytest.raises(LlavaKitError, match="expected OP:MxNxK"):
        command._parse(text)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_the_verb_needs_a_gpu(monkeypatch):
    with pytest.raises(LlavaKitError, match="torch finds none"):
        command.run(arguments_of("tune"))
    monkeypatch.setattr("llava_kit_kernels.why_unavailable", lambda: "it is raining")
    with pytest.raises(LlavaKitError, match="the kernels cannot run here: it is raining"):
        command.run(arguments_of("show"))


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("op", OPS)
def test_measured_on_a_gpu(op):
    lines: list[str] = []
    table = tune([Shape(op, 576, 4096, 1024)], report=lines.append)
    assert len(table) == 1
    assert lines[0].count(" us") == 1 + len(CANDIDATES), lines[0]
