"""Bad tables and archives, as a user meets them at the command line: one line that helps, the right exit code, no traceback."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile

import pytest

from llava_kit.assemble.parts import build
from llava_kit.cli.main import main
from llava_kit.errors import DataError, LlavaKitError, UnsafeError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def tar_of(path, names):
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return str(path)


def linking_tar(path):
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("0001.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    return str(path)


def zip_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0001.jpg", bytes(2**26))
    return str(path)


def gzip_bomb(path):
    info = tarfile.TarInfo("0001.jpg")
    info.size = 2**26
    path.write_bytes(gzip.compress(info.tobuf() + bytes(2**26), 1))
    return str(path)


def table(path, columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


FAULTS = {
    "a link": ("webdataset", lambda p: linking_tar(p / "x.tar"), UnsafeError, "'0001.jpg' is a symbolic link"),
    "a way out": ("webdataset", lambda p: tar_of(p / "x.tar", ["../../0001.jpg"]), UnsafeError, "leads out of the archive"),
    "a zip bomb": ("webdataset", lambda p: zip_bomb(p / "x.zip"), UnsafeError, "as a decompression bomb does"),
    "a gzip bomb": ("webdataset", lambda p: gzip_bomb(p / "x.tgz"), UnsafeError, "as a decompression bomb does"),
    "a program": ("webdataset", lambda p: "pipe:curl x", UnsafeError, "would run a program"),
    "a URL": ("webdataset", lambda p: "https://host/x-{000..010}.tar", UnsafeError, "nothing is fetched"),
    "a table by URL": ("parquet", lambda p: "hf://datasets/a/b.parquet", UnsafeError, "nothing is fetched"),
    "nothing to read": ("webdataset", lambda p: tar_of(p / "x.tar", ["a.cls", "b.bin"]), DataError, ".cls (1), .bin (1)"),
    "an endless range": ("webdataset", lambda p: str(p / "s-{0..99999999999}.tar"), DataError, "too many numbers"),
    "a backward range": ("webdataset", lambda p: str(p / "s-{9..1}.tar"), DataError, "has no or too many numbers"),
    "no file": ("parquet", lambda p: str(p / "none.parquet"), DataError, "there is no such file or folder"),
    "no match": ("parquet", lambda p: str(p / "*.parquet"), DataError, "no file is called so"),
    "an empty folder": ("parquet", lambda p: str(p), DataError, "without files that end in .parquet"),
    "no table": ("parquet", lambda p: write(p / "x.parquet", b"PAR1 and no more"), DataError, "is no Parquet file"),
    "no rows": (
        "parquet",
        lambda p: table(p / "x.parquet", {"question": pa.array([], "string"), "answer": pa.array([], "string")}),
        DataError,
        "found no rows",
    ),
    "nothing said": (
        "parquet",
        lambda p: table(p / "x.parquet", {"a": [1], "b": ["x"]}),
        DataError,
        "its columns are a (number), b (text)",
    ),
    "half a pair": (
        "parquet",
        lambda p: table(p / "x.parquet", {"question": ["x"]}),
        DataError,
        "its columns are question (text)",
    ),
    "unclear pictures": (
        "parquet",
        lambda p: table(p / "x.parquet", {"left": [{"bytes": b""}], "right": [{"bytes": b""}], "caption": ["x"]}),
        DataError,
        "found pictures in the columns left, right; say which",
    ),
    "other columns": ("parquet", lambda p: unequal(p), DataError, "has other columns than"),
    "a hub name": ("hf_dataset", lambda p: "HuggingFaceM4/the_cauldron", DataError, "`hf download HuggingFaceM4/the_cauldron"),
    "no folder": ("hf_dataset", lambda p: str(p / "none"), DataError, "there is no such folder"),
    "a file": ("hf_dataset", lambda p: table(p / "x.parquet", {"a": [1]}), DataError, "expected the folder of a data set"),
    "no data": ("hf_dataset", lambda p: write(p / "x.bin", b"?") and str(p), DataError, "files ending in .bin"),
    "a way out by split": (
        "hf_dataset",
        lambda p: write(p / "dataset_dict.json", b'{"splits": ["../x"]}') and str(p),
        DataError,
        "expected names of folders",
    ),
    "a broken state": ("hf_dataset", lambda p: write(p / "state.json", b"{}") and str(p), DataError, "cannot read it"),
}


def write(path, data):
    path.write_bytes(data)
    return str(path)


def unequal(folder):
    table(folder / "a.parquet", {"question": ["x"], "answer": ["y"]})
    table(folder / "b.parquet", {"question": ["x"], "answers": ["y"]})
    return str(folder)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_in_a_line(tmp_path, name):
    type, make, kind, told = FAULTS[name]
    with pytest.raises(kind) as error:
        build("source", type, path=make(tmp_path))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_all_wrong_names_at_once_with_the_nearest(tmp_path):
    path = table(tmp_path / "x.parquet", {"query_text": ["x"], "reply": ["y"], "photo": [{"bytes": b""}]})
    with pytest.raises(DataError) as error:
        build("source", "parquet", path=path, fields={"question": "query_txt", "answer": "replay", "image": "foto"})
    for nearest in ("query_text", "reply", "photo"):
        assert f"did you mean {nearest!r}" in str(error.value)


def test_a_damaged_row_group_costs_its_own_rows(tmp_path):
    rows = 200
    columns = {"question": [f"{number} " + "x" * 300 for number in range(rows)], "answer": ["y"] * rows}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=50, compression="zstd", use_dictionary=False)
    chunk = pq.ParquetFile(tmp_path / "x.parquet").metadata.row_group(1).column(0)
    data = bytearray((tmp_path / "x.parquet").read_bytes())
    place = chunk.data_page_offset
    data[place : place + chunk.total_compressed_size] = b"\x5a" * chunk.total_compressed_size
    (tmp_path / "x.parquet").write_bytes(data)
    source = build("source", "parquet", path=str(tmp_path / "x.parquet"))
    good, bad, told = 0, 0, ""
    for number in range(rows):
        try:
            assert source[number].conversation.messages[0].text.startswith(f"{number} ")
            good += 1
        except LlavaKitError as error:
            told = str(error)
            bad += 1
    assert (good, bad) == (150, 50)
    assert "row group 1 cannot be decoded" in told


def test_the_command_line_says_it_and_no_more(tmp_path, capsys):
    path = zip_bomb(tmp_path / "x.zip")
    assert main(["data", "check", path]) == 2
    told = capsys.readouterr().err.strip()
    assert "decompression bomb" in told
    assert "Traceback" not in told
    assert len(told.splitlines()) == 1


def test_the_command_line_checks_shards(tmp_path, capsys):
    (tmp_path / "x").mkdir()
    with tarfile.open(tmp_path / "x" / "0.tar", "w") as archive:
        row = json.dumps({"question": "What?", "answer": ""}).encode()
        info = tarfile.TarInfo("1.json")
        info.size = len(row)
        archive.addfile(info, io.BytesIO(row))
    assert main(["data", "check", str(tmp_path / "x")]) == 3
    assert "empty_answer" in "".join(capsys.readouterr())
