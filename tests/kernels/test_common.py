"""Checks before a launch: each says what was found and what was expected."""

from __future__ import annotations

import pytest
import torch

from llava_kit_kernels.ops import common
from llava_kit_kernels.ops.common import INTERPRETED, KernelInputError

HOME = "cpu" if INTERPRETED else "cuda"


def test_kernels_are_interpreted_exactly_where_there_is_no_device():
    assert not torch.cuda.is_available() or not INTERPRETED


def test_devices():
    common.require_device(torch.empty(1, device=HOME), None, torch.empty(2, device=HOME))
    with pytest.raises(KernelInputError, match=r"several devices .*meta"):
        common.require_device(torch.empty(1, device=HOME), torch.empty(1, device="meta"))
    with pytest.raises(KernelInputError, match="lie on meta, expected"):
        common.require_device(torch.empty(1, device="meta"))


def test_without_the_interpreter_the_cpu_is_no_place_for_a_kernel(monkeypatch):
    monkeypatch.setattr(common, "INTERPRETED", False)
    with pytest.raises(KernelInputError, match=r"lie on cpu, expected a CUDA device"):
        common.require_device(torch.empty(1))


def test_dtypes():
    common.require_floats(a=torch.empty(1), b=None, c=torch.empty(1, dtype=torch.bfloat16))
    with pytest.raises(KernelInputError, match=r"`rows` is torch.float64; expected float32, bfloat16 or float16"):
        common.require_floats(rows=torch.empty(1, dtype=torch.float64))
    with pytest.raises(KernelInputError, match=r"`index` is torch.float32; an index is int32 or int64"):
        common.require_indices(index=torch.empty(1))


def test_shapes_and_counts():
    common.require_indices(index=torch.zeros(3, dtype=torch.int32), places=None)
    with pytest.raises(KernelInputError, match=r"`index` has the shape \[1, 3\]; expected 1 dimension"):
        common.require_indices(index=torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(KernelInputError, match=r"`source` has 2,147,483,648 rows; .* at most 2,147,483,647"):
        common.require_count("source", 2**31)
    with pytest.raises(KernelInputError, match=r"widths do not agree: 4 in `rows`, 5 in `buffer`"):
        common.require_same("widths", rows=4, buffer=5)


@pytest.mark.parametrize(("width", "block"), [(1, (64, 64)), (341, (8, 512)), (1024, (4, 1024)), (7168, (4, 1024))])
def test_a_block_holds_4096_elements(width, block):
    assert common.blocks_of(width) == block


def test_rows_are_copied_only_where_their_elements_are_apart():
    tiles = torch.arange(24.0).view(2, 3, 4)
    assert common.contiguous_rows(tiles[:, 1:]).data_ptr() == tiles[:, 1:].data_ptr()
    turned = tiles.transpose(1, 2)
    assert common.contiguous_rows(turned).stride(-1) == 1
    assert torch.equal(common.contiguous_rows(turned), turned)
    index = torch.arange(6)[::2]
    assert torch.equal(common.index_strided(index), index)
    assert common.index_strided(index).stride(0) == 1
