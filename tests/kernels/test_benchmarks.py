"""The benchmarks of row operations can be rehearsed without a GPU: every case gives what torch gives, and a file is written."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "kernels" / "benchmarks"
NUM_CASES = {"gather_rows": 2, "embed_into": 2, "scatter_rows": 1, "blend_rows": 4}


@pytest.fixture
def rehearse(monkeypatch, tmp_path):
    """`rehearse(stem)`: the exit code, and the file."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "timing", raising=False)

    def run(stem):
        file = tmp_path / "times.json"
        monkeypatch.setattr(sys, "argv", [f"benchmark_{stem}.py", "--tiny", "--json", str(file)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(FOLDER / f"benchmark_{stem}.py"), run_name="__main__")
        return caught.value.code, json.loads(file.read_text())

    return run


@pytest.mark.parametrize("stem", NUM_CASES)
def test_rehearsal(rehearse, capsys, stem):
    code, written = rehearse(stem)
    assert code == 0
    assert len(written["rows"]) == NUM_CASES[stem]
    for row in written["rows"]:
        assert row["equal"]
        assert 0 < row["ours_min_us"] <= row["ours_us"]
        assert row["ratio"] == pytest.approx(row["peer_us"] / row["ours_us"])
    assert "NOT EQUAL" not in capsys.readouterr().out


def test_a_result_that_differs_fails_the_run(rehearse, capsys, monkeypatch):
    from llava_kit_kernels.ops import gather_rows

    right = gather_rows.gather_rows
    monkeypatch.setattr(gather_rows, "gather_rows", lambda source, index: right(source, index + 1))
    code, _ = rehearse("gather_rows")
    assert code == 1
    assert capsys.readouterr().out.count("NOT EQUAL") == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a device it would run in earnest")
def test_without_a_device_only_a_rehearsal(rehearse, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["benchmark_scatter_rows.py"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(FOLDER / "benchmark_scatter_rows.py"), run_name="__main__")
    assert "torch finds no CUDA device; --tiny rehearses without one" in capsys.readouterr().err
