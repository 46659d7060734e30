"""Folders are whole or absent, and damage is named."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llava_kit.assemble.files import MANIFEST, is_whole, sweep, verify_folder, write_folder, write_json
from llava_kit.errors import CheckpointError


def two_files(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "a.bin").write_bytes(b"first" * 100)
    (folder / "inner" / "b.txt").write_text("second")


def test_a_written_folder_is_whole_and_lists_every_file(tmp_path):
    write_folder(tmp_path / "x", two_files)
    verify_folder(tmp_path / "x")
    assert is_whole(tmp_path / "x")
    files = json.loads((tmp_path / "x" / MANIFEST).read_text())["files"]
    assert files.keys() == {"a.bin", "inner/b.txt"}
    assert files["a.bin"]["size"] == 500
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_one_flipped_bit_is_named(tmp_path):
    write_folder(tmp_path / "x", two_files)
    data = bytearray((tmp_path / "x" / "a.bin").read_bytes())
    data[250] ^= 1
    (tmp_path / "x" / "a.bin").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a\.bin: expected sha256 .* found .* damaged"):
        verify_folder(tmp_path / "x")
    assert not is_whole(tmp_path / "x")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda x: (x / "a.bin").write_bytes(b"short"), r"a\.bin: expected 500 bytes, found 5"),
        (lambda x: (x / "a.bin").unlink(), r"a\.bin: expected by manifest\.json, but the file is missing"),
        (lambda x: (x / "c").write_text("?"), r"c: found, but manifest\.json does not name it"),
        (lambda x: (x / MANIFEST).unlink(), "never finished"),
        (lambda x: (x / MANIFEST).write_text("{"), "cannot be read as a manifest"),
        (lambda x: (x / MANIFEST).write_text("[]"), "cannot be read as a manifest"),
        (lambda x: (x / MANIFEST).write_text('{"files": {}, "format": 99}'), "found format 99, expected 1"),
    ],
)
def test_damage_is_told(tmp_path, damage, message):
    write_folder(tmp_path / "x", two_files)
    damage(tmp_path / "x")
    with pytest.raises(CheckpointError, match=message):
        verify_folder(tmp_path / "x")


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        verify_folder(tmp_path / "none")


def test_a_writer_that_fails_leaves_nothing_and_the_old_folder_stays(tmp_path):
    write_folder(tmp_path / "x", two_files)

    def fails(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left on device"):
        write_folder(tmp_path / "x", fails)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    verify_folder(tmp_path / "x")


def test_a_folder_is_replaced(tmp_path):
    write_folder(tmp_path / "x", two_files)
    write_folder(tmp_path / "x", lambda folder: (folder / "new").write_text("new"))
    verify_folder(tmp_path / "x")
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [MANIFEST, "new"]


def test_sweep_removes_leftovers_and_gives_a_replaced_folder_its_name_back(tmp_path):
    write_folder(tmp_path / "x", two_files)
    os.replace(tmp_path / "x", tmp_path / "x.old")
    (tmp_path / "y.tmp").mkdir()
    (tmp_path / "y.tmp" / "half").write_text("half")
    (tmp_path / "notes.old").write_text("somebody's own")
    assert sweep(tmp_path) == ["y.tmp"]
    verify_folder(tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.old", "x"]


def test_json_refuses_what_is_no_number(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})


def test_a_full_disk_is_an_error_and_no_half_folder(tmp_path):
    """A limit on the size of files stands for the full disk: the write fails in the middle of a file."""
    script = f"""
import resource, torch
from pathlib import Path
from safetensors.torch import save_file
from llava_kit.assemble.files import write_folder
from llava_kit.errors import CheckpointError
path = Path({str(tmp_path)!r})
write_folder(path / "step_1", lambda f: save_file({{"x": torch.ones(10)}}, f / "t.safetensors"))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    write_folder(path / "step_2", lambda f: save_file({{"x": torch.ones(1_000_000)}}, f / "t.safetensors"))
except CheckpointError as error:
    raise SystemExit(f"told: {{error}}")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "told:" in done.stderr, done.stderr
    assert "could not be written" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]
    verify_folder(tmp_path / "step_1")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_killed_at_any_instant_the_name_is_whole_or_absent(tmp_path):
    script = f"""
import sys
from pathlib import Path
from llava_kit.assemble.files import write_folder
path = Path({str(tmp_path)!r})
print("ready", flush=True)
for step in range(100_000):
    write_folder(path / f"step_{{step % 3}}", lambda f: [(f / name).write_bytes(b"x" * 50_000) for name in "abcdef"])
"""
    for wait in (0.005, 0.011, 0.023, 0.037):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        sweep(tmp_path)
        for path in tmp_path.iterdir():
            verify_folder(path)
