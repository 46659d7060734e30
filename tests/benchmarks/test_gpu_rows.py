"""The rows of `make gpu`, each line of them, in shapes so small that a CPU can do them: no figure, but every claim."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu.run import ROWS, Session
from benchmarks.gpu.run import main as run_all

ROOT = Path(__file__).parents[2]


def _run(module, *arguments, tmp_path):
    """In a process of its own, in which Triton interprets."""
    path = tmp_path / "row.json"
    command = [sys.executable, "-m", f"benchmarks.gpu.{module}", "--tiny", "--json", str(path), *arguments]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert path.exists(), done.stderr[-3000:]
    return done.returncode, json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("entry", ROWS, ids=lambda entry: entry.name)
def test_every_line_of_a_row_runs_and_its_claims_hold(entry, tmp_path):
    code, result = _run(entry.module, *entry.arguments, tmp_path=tmp_path)
    assert not result["errors"], result["errors"][0]["trace"]
    assert result["row"] == entry.name
    assert result["claims"]
    assert [claim["claim"] for claim in result["claims"] if not claim["holds"]] == []
    assert any(figure["at_least"] is not None or figure["at_most"] is not None for figure in result["figures"])
    assert result["traces"]
    assert code in (0, 3)  # 3: targets are missed, as they must be here


def test_without_a_gpu_a_row_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device was found; `--tiny`"):
        importlib.import_module("benchmarks.gpu.head").main([])
    with pytest.raises(SystemExit, match="torch finds no CUDA device here"):
        run_all([])


def test_a_tiny_run_never_goes_among_the_results():
    with pytest.raises(SystemExit):
        run_all(["--tiny"])


class _Arguments:
    tiny, total = True, 100.0

    def __init__(self, folder):
        self.folder = folder


def test_a_row_that_is_cut_off_keeps_what_it_wrote(tmp_path, monkeypatch):
    """The process writes a part of its result and hangs."""
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setenv("OUT", str(out))
    session = Session(_Arguments(tmp_path))
    source = "import json, sys, time, pathlib; p = pathlib.Path(sys.argv[sys.argv.index('--json') + 1])\n"
    source += "p.write_text(json.dumps({'row': 'G3', 'figures': [1], 'notes': []})); time.sleep(60)"
    call = session.call

    def hanging(command, seconds):
        return call([sys.executable, "-c", source, *command[3:]], 2)

    monkeypatch.setattr(session, "call", hanging)
    session.run_row(ROWS[0])
    session.save()
    (copied,) = out.glob("*.json")
    row = json.loads(copied.read_text())["rows"]["G3"]
    assert row["figures"] == [1]
    assert row["code"] is None
    assert "cut off" in row["notes"][0]


def test_a_row_for_which_no_time_is_left_is_named(tmp_path):
    session = Session(_Arguments(tmp_path))
    session.total = 3.0
    session.run_row(ROWS[1])
    assert session.result["rows"]["G4"]["notes"] == ["left out: no time was left"]


def test_the_helpers_of_a_row_that_is_cut_off_end_with_it(tmp_path):
    """What workers of pytest and of torch.compile are: processes of the process, which would go on using the GPU."""
    left = tmp_path / "left"
    helper = f"import pathlib, time; time.sleep(2); pathlib.Path({str(left)!r}).touch(); time.sleep(60)"
    source = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {helper!r}])"
    code, _ = Session(_Arguments(tmp_path)).call([sys.executable, "-c", source], 1)
    assert code is None
    time.sleep(3)
    assert not left.exists()


@pytest.mark.parametrize(("names", "expected"), [([], []), (["G4"], [300]), (["G3", "G4"], [150, 300])])
def test_rows_asked_for_by_name_have_the_whole_time(tmp_path, monkeypatch, names, expected):
    given = []

    def call(session, command, seconds):
        given.append(round(seconds))
        return 0, ""

    monkeypatch.setattr(Session, "call", call)
    monkeypatch.setattr("benchmarks.gpu.run._device", lambda: "a GPU")
    wanted = [entry for entry in ROWS if entry.name in ("G3", "G4", "G5", "G6")]
    monkeypatch.setattr("benchmarks.gpu.run.ROWS", wanted)
    run_all([*names, "--total", "300", "--folder", str(tmp_path), "--no-tests"])
    assert sorted(given) == sorted(expected if names else [entry.seconds for entry in wanted])
