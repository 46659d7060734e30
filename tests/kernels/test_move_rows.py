"""What all operations on rows share: offsets beyond 2^31 elements, accesses of 16 bytes, no spilled registers."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava_kit_kernels.ops.blend_rows import blend_rows
from llava_kit_kernels.ops.embed_into import embed_into
from llava_kit_kernels.ops.gather_rows import gather_rows
from llava_kit_kernels.ops.scatter_rows import scatter_rows
from llava_kit_kernels.ops.sum_segments import sum_rows

STEMS = ("gather_rows", "embed_into", "scatter_rows", "sum_segments", "blend_rows")
WIDTH = 1024
FAR = 2**31 // WIDTH + 4  # this row begins 4,096 elements beyond 2^31


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.fixture
def huge(home):
    """[FAR + 4, WIDTH] in bfloat16: 4.3 GB of addresses, of which the CPU gives memory only to pages that are written."""
    before = resident_mib()
    rows = torch.empty(FAR + 4, WIDTH, dtype=torch.bfloat16, device=home)
    rows[FAR - 1 :] = torch.arange(5, device=home)[:, None]
    yield rows
    if home == "cpu":
        assert resident_mib() - before < 200


def test_rows_beyond_two_to_the_31_are_read(home, huge):
    index = torch.tensor([FAR, FAR + 4, FAR + 2], device=home)
    assert gather_rows(huge, index)[:, 0].tolist() == [1, 0, 3]
    for tiles in (huge.view(2, -1, WIDTH), huge.view(-1, 8, WIDTH)):
        assert gather_rows(tiles, index)[:, -1].tolist() == [1, 0, 3]
    assert sum_rows(huge, index.int(), torch.float32).unique().tolist() == [4]
    taps = torch.tensor([[FAR, FAR + 1, FAR + 2, FAR + 3]], device=home)
    weights = torch.tensor([[1.0, 0, 0, 2.0]], device=home)
    bounds = torch.zeros(1, dtype=torch.int32, device=home).expand(FAR + 5)
    readers = torch.zeros(4, dtype=torch.int32, device=home)
    assert blend_rows(huge, taps, weights, readers, bounds, "sum").unique().tolist() == [9]


def test_seats_beyond_two_to_the_31_are_written(home, huge):
    rows = torch.tensor([[7.0], [8.0]], device=home).expand(2, WIDTH)
    seats = torch.tensor([FAR + 1, FAR + 3], device=home)
    scatter_rows(rows, seats, huge)
    assert huge[FAR - 1 :, 5].tolist() == [0, 1, 7, 3, 8]
    embed_into(rows, torch.tensor([1, 0], device=home), seats + 1, huge, rows[1], seats - 2, seats[1:])
    assert huge[FAR - 1 :, -1].tolist() == [8, 1, 8, 8, 0]


def test_compiled_for_hopper_no_register_spills(usage):
    found = usage(*(importlib.import_module(f"llava_kit_kernels.ops.{stem}") for stem in STEMS))
    assert len(found) == 18
    spilled = [name for name, used in found.items() if used.stack]
    assert not spilled


PROGRAM = """
import re
from triton import compile
from triton.compiler import ASTSource
from llava_kit_kernels.ops import ahead, gather_rows, scatter_rows

for case in [gather_rows.ahead_of_time()[0], scatter_rows.ahead_of_time()[0]]:
    kinds = {name: "constexpr" if name in case.constants else case.signature[name] for name in case.kernel.arg_names}
    aligned = {"source", "result"} | {name for name, kind in kinds.items() if kind.endswith(":16")}
    attributes = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(kinds) if name in aligned}
    signature = {name: kind.removesuffix(":16") for name, kind in kinds.items()}
    source = ASTSource(case.kernel, signature=signature, constexprs=dict(case.constants), attrs=attributes)
    code = compile(source, target=ahead.TARGET, options={"num_warps": case.num_warps}).asm["ptx"]
    print(len(re.findall(r"ld.global.v4.b32", code)), len(re.findall(r"st.global.v4.b32", code)), code.count("st.global"))
"""


def test_aligned_rows_move_in_pieces_of_16_bytes():
    """4,096 elements of two bytes for 128 threads: four loads of 16 bytes, all before the first store; as many stores."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    counts = re.findall(r"^(\d+) (\d+) (\d+)$", done.stdout, flags=re.MULTILINE)
    assert counts == [("4", "4", "4")] * 2
