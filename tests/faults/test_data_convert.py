"""What goes wrong while data are converted, and what a user reads then."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import sys

import pytest
from llava_rows import tree, turns, write_rows

from llava_kit.cli.main import main


def run(*words) -> int:
    return main(["data", "convert", *map(str, words)])


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("empty.json", b"", "an empty file"),
        ("rows.json", b"<!DOCTYPE html><html><body>404", "a web page (HTML)"),
        ("rows.json", gzip.compress(b"[]", mtime=0), "a gzip file; unpack it first"),
        ("rows.json", '[{"conversations": []}]'.encode("utf-16"), "a text in UTF-16: iconv -f UTF-16 -t UTF-8"),
        ("rows.json", b'{"version": 1, "data": [{"x": 1}]}', "a JSON object with the keys 'version', 'data'"),
        ("rows.csv", "image,caption\r\np.jpg,caf\xe9\r\n".encode("latin-1"), "a text that is not UTF-8 (its byte 24 is 0xe9)"),
        ("rows.p", b"\x80\x04cos\nsystem\n(S'id'\ntR.", "a pickle"),
        ("rows.csv", b"id,text\n1,hello\n", "a text that begins with 'id,text"),
    ],
)
def test_files_that_no_source_knows(tmp_path, capsys, name, data, told):
    (tmp_path / name).write_bytes(data)
    assert run(tmp_path / name, tmp_path / "out") == 3
    shown = capsys.readouterr().err
    assert told in shown
    assert "known are" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name")
def test_a_pipe_is_told_and_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "rows.json")
    assert run(tmp_path / "rows.json", tmp_path / "out") == 3
    assert "is a pipe; data are read more than once" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "reason", "told"),
    [
        ({"boxes": [{"label": "x", "box": [10**400, 0, 1, 1]}]}, "bad_annotation", "expected numbers that are finite"),
        ({"messages": [{"role": "assistant", "tool_calls": 5}]}, "bad_row", "has a int as its tool_calls; expected a list"),
    ],
)
def test_rows_that_no_program_writes_cost_themselves(tmp_path, capsys, extra, reason, told):
    good = {"id": "a", "conversations": turns()}
    bad = {"id": "b", **({} if "messages" in extra else {"conversations": turns()}), **extra}
    (tmp_path / "rows.json").write_text(json.dumps([good, bad]))
    assert run(tmp_path / "rows.json", tmp_path / "out", "--workers", 1) == 3
    assert f"b: {reason}: row 1: " in (shown := capsys.readouterr().err)
    assert told in shown


def test_a_destination_within_what_is_read(tmp_path, capsys):
    assert run("--source", "{type: shapes, task: captions, size: 3}", tmp_path / "a") == 0
    before = tree(tmp_path / "a")
    for inside in ("inner", "", "deep/er", "../a"):
        assert run(tmp_path / "a", tmp_path / "a" / inside) == 3
        assert "which is read; name a folder beside it" in capsys.readouterr().err
    assert tree(tmp_path / "a") == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everything may be written to by root")
def test_a_folder_that_may_not_be_written_to(tmp_path, capsys):
    (tmp_path / "shut").mkdir(mode=0o500)
    assert run("--source", "{type: shapes, size: 3}", tmp_path / "shut" / "out") == 3
    assert "cannot be made: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["llava", "parquet", "webdataset"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_stops_the_work_and_the_same_command_goes_on(tmp_path, capsys, form, workers, monkeypatch):
    """A limit on the size of files stands for the disk."""
    from llava_kit.convert.forms import FORMS

    monkeypatch.setitem(FORMS, form, FORMS[form]._replace(block=40))
    path = write_rows(tmp_path, 200)
    words = (path, tmp_path / "out", "--to", form, "--workers", workers)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, old[1]))
    try:
        assert run(*words) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    told = capsys.readouterr().err
    assert "cannot be written: File too large; what is written so far is kept" in told
    assert "Traceback" not in told
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert run(*words) == 3
    assert run(path, tmp_path / "whole", "--to", form) == 3
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.skipif(sys.platform != "linux", reason="finds its children in /proc")
def test_a_killed_worker_is_told_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    from llava_kit.convert.forms import FORMS

    monkeypatch.setitem(FORMS, "llava", FORMS["llava"]._replace(block=4))
    path = write_rows(tmp_path, 200)
    parent = os.getpid()

    def kill_one(self, number, block):
        if number == 9:
            with open(f"/proc/{parent}/task/{parent}/children") as file:
                os.kill(int(file.read().split()[-1]), signal.SIGKILL)
        return add(self, number, block)

    from llava_kit.convert.files import Files

    add = Files.add
    monkeypatch.setattr(Files, "add", kill_one)
    assert run(path, tmp_path / "out", "--workers", 2) == 1
    told = capsys.readouterr().err
    assert "was killed by signal 9 (SIGKILL)" in told
    assert "the same command goes on" in told
    monkeypatch.undo()
    monkeypatch.setitem(FORMS, "llava", FORMS["llava"]._replace(block=4))
    assert run(path, tmp_path / "out", "--workers", 2) == 3
    assert run(path, tmp_path / "whole", "--workers", 1) == 3
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_paths_and_addresses_that_lead_elsewhere(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *arguments, **_: pytest.fail("a name was looked up"))
    (tmp_path / "secret.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    images = ["../secret.jpg", str(tmp_path / "secret.jpg"), "link.jpg", f"file://{tmp_path}/secret.jpg", "s3://b/x.jpg"]
    images.append("https://me:key@example.org/x.jpg?token=key")
    rows = [{"id": f"r{number}", "image": image, "conversations": turns()} for number, image in enumerate(images)]
    (tmp_path / "data" / "rows.json").write_text(json.dumps(rows))
    assert run(tmp_path / "data" / "rows.json", tmp_path / "out") == 3
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [entry["reason"] for entry in rejected] == [*["outside_root"] * 4, *["url_not_allowed"] * 2]
    assert not (tmp_path / "out" / "images").exists()
    shown = capsys.readouterr().err + (tmp_path / "out" / "rejected.jsonl").read_text()
    assert "key" not in shown
    assert "--allow-urls" in shown
