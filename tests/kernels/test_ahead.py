"""Compilation without a GPU: what it counts is there, spills are seen, and the interpreter is no obstacle."""

from __future__ import annotations

import pytest

from llava_kit_kernels.ops.ahead import MOST_SHARED, compile_for, usage_of

KERNELS = """
import triton
import triton.language as tl
from llava_kit_kernels.ops.common import AheadCase


@triton.jit
def product(x, y, bias, stride, side: tl.constexpr):
    columns = tl.arange(0, side)
    places = columns[:, None] * stride + columns[None, :]
    block = tl.load(x + places)
    total = tl.dot(block, block)
    if bias is not None:
        total += tl.load(bias + columns)[None, :]
    tl.store(y + places, total)


@triton.jit
def centred(x, y, width: tl.constexpr):
    columns = tl.arange(0, width)
    row = tl.load(x + columns)
    tl.store(y + columns, row - tl.sum(row) / width)


def ahead_of_time():
    types = {"x": "*bf16", "y": "*fp32", "stride": "i32", "bias": "*fp32"}
    return [
        AheadCase("small", product, types, {"bias": None, "side": 64}, 4, 3),
        AheadCase("with bias", product, {**types, "stride": "i32:16"}, {"side": 64}, 4, 3),
        AheadCase("too wide", centred, {"x": "*fp32", "y": "*fp32"}, {"width": 16384}, 1, 3),
    ]
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "some_kernels.py").write_text(KERNELS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return "some_kernels"


def test_usage_of_all_cases(module):
    usage = usage_of([module])
    assert list(usage) == ["small", "with bias", "too wide"]
    small = usage["small"]
    assert small.has_wgmma
    assert small.stack == 0
    assert 0 < small.registers <= 255
    assert 0 < small.shared <= MOST_SHARED
    # Rows that begin at multiples of 16 are read in larger pieces, with fewer addresses.
    assert usage["with bias"].registers < small.registers
    # 16,384 numbers in 32 threads are 512 a thread, all of them needed until the sum is known; there are 255 registers.
    assert usage["too wide"].stack > 0
    assert not usage["too wide"].has_wgmma


def test_the_expression_chooses_also_for_a_process_that_interprets(module, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert list(usage_of([module], only="^with")) == ["with bias"]


def test_a_module_that_fails_is_told():
    with pytest.raises(RuntimeError, match="no_such_module"):
        usage_of(["no_such_module"])


def test_an_interpreted_kernel_is_refused():
    class Interpreted:
        arg_names = ("x",)

    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        compile_for(Interpreted(), {"x": "*fp32"}, {}, 4, 3)
