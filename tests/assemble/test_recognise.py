from __future__ import annotations

import gzip
import io
import json
import tarfile

import pytest
from PIL import Image

from llava_kit.assemble.recognise import recognise
from llava_kit.errors import DataError, PluginError

TALK = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cat."}]
ROWS = json.dumps([{"id": "a", "conversations": TALK}])


def write(tmp_path, data: str | bytes) -> str:
    path = tmp_path / "file"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def test_a_file_finds_its_source(tmp_path):
    path = write(tmp_path, ROWS)
    part = recognise(path, {"stop": 1})
    assert (part.type, part.options) == ("llava_json", {"path": path, "stop": 1})
    assert recognise(path, type="llava_json").options == {"path": path}


def test_a_source_that_was_named_is_believed(tmp_path):
    path = write(tmp_path, "hello")
    assert recognise(path, type="llava_json").options == {"path": path}
    with pytest.raises(DataError, match="the source 'shapes' reads no path"):
        recognise(path, type="shapes")
    with pytest.raises(PluginError, match="did you mean 'llava_json'"):
        recognise(path, type="llava_jsn")


def picture(format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3)).save(buffer, format)
    return buffer.getvalue()


def empty_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("x.bin"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "an empty file"),
        (b"hello", "a text that begins with 'hello'"),
        (gzip.compress(ROWS.encode(), mtime=0), "a gzip file; unpack it first: gunzip"),
        (b"\n<!DOCTYPE html><html>", "a web page .HTML., perhaps of a download that failed"),
        (ROWS.encode("utf-16"), "a text in UTF-16: iconv -f UTF-16 -t UTF-8"),
        (ROWS.encode("utf-16-be"), "a file of bytes that begins with 00 5b"),
        ("Ein schöner Tag ohne Ende".encode("latin-1"), "not UTF-8 .its byte 7 is 0xf6., perhaps WINDOWS-1252: iconv"),
        (("x" * 4095 + "é").encode(), "a text that begins with 'xxx"),
        (b'{"foo": [1], "bar": {}}', "a JSON object with the keys 'foo', 'bar'"),
        (picture("PNG"), "a file of PNG"),
        (b"%PDF-1.7", "a file of PDF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"\x81\x04\x00\x00abcdefgh", "a file of bytes that begins with 81 04 00 00 61 62 63 64"),
    ],
)
def test_what_no_source_knows_is_described(tmp_path, data, told):
    with pytest.raises(DataError, match=rf"is no format that is known: .*{told}.*; known are .*llava_json") as caught:
        recognise(write(tmp_path, data))
    assert "--from NAME" in str(caught.value)


def test_folders_that_no_source_knows(tmp_path):
    with pytest.raises(DataError, match="an empty folder"):
        recognise(str(tmp_path))
    for number in range(7):
        (tmp_path / f"{number}.dat").touch()
    with pytest.raises(DataError, match=r"a folder with '0.dat', '1.dat', .* and 2 more; name a file in it"):
        recognise(str(tmp_path))
    with pytest.raises(DataError, match="No such file"):
        recognise(str(tmp_path / "nowhere"))


TWINS = """
from llava_kit import Options, hookimpl


class Opts(Options):
    path: str


def look(path, head):
    if head.startswith(b"boom"):
        raise ValueError("no")
    return {"path": path} if head.startswith(b"twin") else None


@hookimpl
def register_sources(register):
    for name in ("one", "two"):
        register(name, options=Opts, build=Opts, recognise=look)
"""


def test_several_that_know_it_and_one_that_fails(tmp_path, make_plugin):
    make_plugin("twins", TWINS)
    with pytest.raises(DataError, match=r"could be 'one' or 'two'; say which with --from NAME"):
        recognise(write(tmp_path, "twin"))
    assert recognise(write(tmp_path, "twin"), type="two").type == "two"
    with pytest.raises(PluginError, match=r"plugin twins .*: its look at .* failed \(ValueError: no\)"):
        recognise(write(tmp_path, "boom"))


@pytest.mark.parametrize(
    ("pattern", "source"),
    [("data/train-*.parquet", "parquet"), ("s-{000..010}.tar", "webdataset"), ("s-[01].tgz", "webdataset")],
)
def test_a_pattern_of_files_is_told_by_its_ending(pattern, source):
    assert recognise(pattern).model_dump() == {"type": source, "path": pattern}


def test_a_pattern_that_no_source_reads():
    with pytest.raises(DataError, match=r"\*.txt: is no format that is known: a pattern of files"):
        recognise("data/*.txt")
