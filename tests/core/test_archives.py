"""What honest programs pack is listed and read exactly; what a hostile one packs is refused with one line, in little memory."""

import gzip
import io
import os
import random
import struct
import tarfile
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_kit.core.archives import DEFAULT, ArchiveLimits, check_name, list_members, open_archive, read_member
from llava_kit.errors import DataError, UnsafeError

FILES = {"a.txt": b"one", "b/c.json": b'{"x": 1}' * 500, "b/empty": b"", "ü 🙂.txt": "grüße".encode()}
LONG = "d" * 90 + "/" + "e" * 190 + "/" + "f" * 120 + ".txt"


def tar_of(path, files, format=tarfile.PAX_FORMAT, mode="w"):
    with tarfile.open(path, mode, format=format) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def zip_of(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return str(path)


def read_all(path, limits=DEFAULT):
    opened = open_archive(path, limits)
    try:
        members = list(list_members(opened, limits, path))
        with open(opened.path, "rb") as file:
            return {member.name: read_member(file, member, path) for member in members}
    finally:
        if opened.temporary:
            os.unlink(opened.path)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_age(tmp_path, format):
    files = FILES if format == tarfile.USTAR_FORMAT else {**FILES, LONG: b"deep"}
    assert read_all(tar_of(tmp_path / "x.tar", files, format)) == files


def test_a_compressed_tar_is_unpacked_and_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spool"))
    (tmp_path / "spool").mkdir()
    path = tar_of(tmp_path / "x.tgz", FILES, mode="w:gz")
    assert read_all(path) == FILES
    assert os.listdir(tmp_path / "spool") == []


def test_two_gzip_files_in_a_row_are_one(tmp_path):
    whole = Path(tar_of(tmp_path / "x.tar", FILES)).read_bytes()
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(whole[:1000]) + gzip.compress(whole[1000:]) + bytes(700))
    assert read_all(str(tmp_path / "x.tar.gz")) == FILES


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zips_stored_and_deflated(tmp_path, method):
    assert read_all(zip_of(tmp_path / "x.zip", FILES, method)) == FILES


def test_a_zip_with_64_bit_numbers(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive, archive.open("a", "w", force_zip64=True) as member:
        member.write(b"data")
    assert read_all(str(tmp_path / "x.zip")) == {"a": b"data"}
    # More than 16 bits can count: a directory of the 64-bit kind, with its own end and the place of that.
    data = Path(zip_of(tmp_path / "many.zip", FILES)).read_bytes()
    end = data.rfind(b"PK\x05\x06")
    _, _, _, _, count, length, start, _ = struct.unpack_from("<4s4H2LH", data, end)
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "many.zip").write_bytes(data[:end] + record + locator + last)
    assert zipfile.ZipFile(tmp_path / "many.zip").testzip() is None
    assert read_all(str(tmp_path / "many.zip")) == FILES


@settings(max_examples=25, deadline=None)
@given(
    files=st.dictionaries(
        st.text(st.characters(exclude_characters="/\\\0:", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=150).filter(
            lambda name: name not in (".", "..")
        ),
        st.binary(max_size=1500),
        max_size=6,
    ),
    packed=st.sampled_from(["pax", "gnu", "gz", "zip"]),
)
def test_what_python_packs_is_read_exactly(tmp_path_factory, files, packed):
    folder = tmp_path_factory.mktemp("archive")
    if packed == "zip":
        path = zip_of(folder / "x", files)
    else:
        format = tarfile.GNU_FORMAT if packed == "gnu" else tarfile.PAX_FORMAT
        path = tar_of(folder / "x", files, format, "w:gz" if packed == "gz" else "w")
    assert read_all(path) == files


# --- hostile archives -------------------------------------------------------------------------------------------------


def tar_with(path, **changes):
    """A tar whose only member is changed in its header (`type`, `linkname`, `size`, `name`)."""
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo(changes.pop("name", "a.txt"))
        for name, value in changes.items():
            setattr(info, name, value)
        archive.addfile(info)
    return str(path)


def sparse_tar(path):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.txt")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": str(2**50)}
        archive.addfile(info)
    return str(path)


def truncated(path, keep):
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * keep)])
    return path


def lying_tar(path):
    """The header declares 8 GB, with a checksum that fits."""
    info = tarfile.TarInfo("a.txt")
    info.size = 2**33 - 1
    Path(path).write_bytes(info.tobuf() + bytes(2048))
    return str(path)


def negative_tar(path):
    header = bytearray(tarfile.TarInfo("a.txt").tobuf())
    header[124:136] = b"\xff" * 12
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    Path(path).write_bytes(bytes(header) + bytes(1024))
    return str(path)


def wide_pax(path):
    """An extended header whose size is 10^19: more than fits into 64 bits."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.txt")
        info.pax_headers = {"size": "9" * 19}
        archive.addfile(info)
    return str(path)


def wide_record(path):
    """An extended header whose first record is said to be 10,000 bytes long, in a number of 5,000 digits."""
    note = b"0" * 4 + b"10000" + b"0" * 5000 + b" a=b\n"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        info = tarfile.TarInfo("x")
        info.type, info.size = tarfile.XHDTYPE, 20_000
        archive.addfile(info, io.BytesIO(note.ljust(20_000, b" ")))
        archive.addfile(tarfile.TarInfo("a.txt"))
    return str(path)


def overlapping_zip(path):
    """A directory whose two entries point at the same bytes, as in Fifield's bombs."""
    zip_of(path, {"a": b"1" * 1000, "b": b"2" * 1000})
    data = bytearray(Path(path).read_bytes())
    second = data.rfind(b"PK\x01\x02")
    data[second + 42 : second + 46] = bytes(4)
    Path(path).write_bytes(data)
    return str(path)


def zip_with_entry(path, place, value):
    """A zip whose directory entry has another 16-bit number at `place`."""
    zip_of(path, {"a.txt": b"text"})
    data = bytearray(Path(path).read_bytes())
    entry = data.rfind(b"PK\x01\x02")
    struct.pack_into("<H", data, entry + place, value)
    Path(path).write_bytes(data)
    return str(path)


def zip_link(path):
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("a")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return str(path)


def lying_zip(path):
    """The directory declares that the member unpacks to 10 bytes; it unpacks to 10 million."""
    zip_of(path, {"a": bytes(10_000_000)})
    data = bytearray(Path(path).read_bytes())
    struct.pack_into("<L", data, data.rfind(b"PK\x01\x02") + 24, 10)
    Path(path).write_bytes(data)
    return str(path)


HOSTILE = {
    "absolute": (lambda p: tar_of(p, {"/etc/cron.d/x": b""}), UnsafeError, "absolute name"),
    "drive": (lambda p: zip_of(p, {"C:\\x": b""}), UnsafeError, "absolute name"),
    "dots": (lambda p: tar_of(p, {"a/../../x": b""}), UnsafeError, "leads out of the archive"),
    "dots in a zip": (lambda p: zip_of(p, {"../x": b""}), UnsafeError, "leads out of the archive"),
    "dots of windows": (lambda p: zip_of(p, {"..\\x": b""}), UnsafeError, "leads out of the archive"),
    "symbolic link": (lambda p: tar_with(p, type=tarfile.SYMTYPE, linkname="/etc"), UnsafeError, "'a.txt' is a symbolic link"),
    "hard link": (lambda p: tar_with(p, type=tarfile.LNKTYPE, linkname="b"), UnsafeError, "'a.txt' is a hard link"),
    "device": (lambda p: tar_with(p, type=tarfile.CHRTYPE), UnsafeError, "is a device"),
    "pipe": (lambda p: tar_with(p, type=tarfile.FIFOTYPE), UnsafeError, "is a pipe"),
    "unknown kind": (lambda p: tar_with(p, type=b"Z"), DataError, "of kind 'Z'"),
    "sparse": (lambda p: tar_with(p, type=tarfile.GNUTYPE_SPARSE), UnsafeError, "is sparse"),
    "sparse by attributes": (sparse_tar, UnsafeError, "is sparse"),
    "link in a zip": (zip_link, UnsafeError, "symbolic link"),
    "encrypted": (lambda p: zip_with_entry(p, 8, 1), DataError, "is encrypted"),
    "foreign method": (lambda p: zip_with_entry(p, 10, 14), DataError, "packed by lzma"),
    "split zip": (lambda p: split_zip(p), DataError, "one piece of a zip in several"),
    "overlap": (overlapping_zip, UnsafeError, "lie over each other"),
    "cut tar": (lambda p: truncated(tar_of(p, {"a": bytes(50_000)}), 0.5), DataError, "declares 50,000 bytes"),
    "no end": (lambda p: cut_end(p), DataError, "end mark is missing"),
    "damaged tar": (lambda p: damaged(p), DataError, "is damaged at byte 1,024"),
    "cut gzip": (lambda p: truncated(tar_of(p, noise(), mode="w:gz"), 0.5), DataError, "breaks off"),
    "cut zip": (lambda p: truncated(zip_of(p, noise()), 0.5), DataError, "breaks off"),
    "lying tar": (lying_tar, DataError, "declares 8,589,934,591 bytes"),
    "negative size": (negative_tar, DataError, "size is no number"),
    "wide size": (wide_pax, DataError, "declares 9,999,999,999,999,999,999 bytes"),
    "long name": (lambda p: tar_of(p, {"n" * 70_000: b""}, tarfile.GNU_FORMAT), UnsafeError, "a name of 70,001 bytes"),
    "zip bomb": (lambda p: zip_of(p, {"a": bytes(2**26)}), UnsafeError, "decompression bomb"),
    "zip of many small bombs": (
        lambda p: zip_of(p, {f"{n}": bytes(2**22) for n in range(8)}),
        UnsafeError,
        "decompression bomb",
    ),
    "gzip bomb": (lambda p: gzip_bomb(p), UnsafeError, "decompression bomb"),
    "lying zip": (lying_zip, DataError, "its header declares 10"),
    "gzip of text": (lambda p: Path(p).write_bytes(gzip.compress(b"text" * 500)) and str(p), DataError, "not of a tar"),
    "xz": (lambda p: tar_of(p, FILES, mode="w:xz"), DataError, "packed by xz"),
    "text": (lambda p: Path(p).write_bytes(b"hello there") and str(p), DataError, "expected an archive"),
    "empty": (lambda p: Path(p).touch() or str(p), DataError, "is empty"),
    "twice in a tar": (lambda p: twice(p), DataError, "'a.txt' comes twice"),
}


def noise():
    return {"a": random.Random(1).randbytes(100_000)}


def split_zip(path):
    zip_of(path, {"a": b"text"})
    data = bytearray(Path(path).read_bytes())
    struct.pack_into("<H", data, data.rfind(b"PK\x05\x06") + 4, 3)
    Path(path).write_bytes(data)
    return str(path)


def cut_end(path):
    data = Path(tar_of(path, {"a": b"text"})).read_bytes()
    Path(path).write_bytes(data[:1024])
    return str(path)


def damaged(path):
    data = bytearray(Path(tar_of(path, {"a": b"text", "b": b"more"})).read_bytes())
    data[1030] ^= 0xFF
    Path(path).write_bytes(data)
    return str(path)


def gzip_bomb(path):
    """60 MB of zeros after the header of a tar, in 60 KB (the check needs 16)."""
    info = tarfile.TarInfo("a")
    info.size = 60 * 2**20
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf())
        for _ in range(60):
            file.write(bytes(2**20))
    return str(path)


def twice(path):
    with tarfile.open(path, "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("a.txt"))
    return str(path)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_refused(tmp_path, name, monkeypatch):
    make, kind, told = HOSTILE[name]
    path = make(tmp_path / "archive")
    (tmp_path / "spool").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spool"))
    tracemalloc.start()
    with pytest.raises(kind) as error:
        read_all(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert told in str(error.value)
    assert path in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    assert most < 100 * 2**20
    assert os.listdir(tmp_path / "spool") == []


def test_counts_and_sizes_have_limits(tmp_path):
    path = tar_of(tmp_path / "x.tar", {f"{number}": bytes(100) for number in range(20)})
    with pytest.raises(UnsafeError, match="more than 10 members"):
        read_all(path, ArchiveLimits(max_members=10))
    with pytest.raises(UnsafeError, match="'0' has 100 bytes; allowed are 99"):
        read_all(path, ArchiveLimits(max_member_bytes=99))
    with pytest.raises(UnsafeError, match="more than 1,000 bytes"):
        read_all(path, ArchiveLimits(max_total_bytes=1000))
    packed = tar_of(tmp_path / "x.tgz", noise(), mode="w:gz")
    with pytest.raises(UnsafeError, match="would take more than 50,000 bytes"):
        read_all(packed, ArchiveLimits(max_unpacked_bytes=50_000))


@pytest.mark.parametrize("path", ["pipe:curl http://x/y.tar", "http://x/y.tar", "s3://b/x.tar", "hf://datasets/x.tar"])
def test_names_that_are_no_files(path):
    with pytest.raises(UnsafeError, match=r"would run a program|nothing is fetched"):
        check_name(path)


def test_a_missing_archive(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        open_archive(str(tmp_path / "none.tar"))


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_changed_in_an_archive_it_is_read_or_refused(tmp_path, seed):
    """Random bytes of tars and zips are changed: all that may come of it is our own error, or what can still be read."""
    draw = random.Random(seed)
    make = draw.choice([lambda p: tar_of(p, FILES), lambda p: zip_of(p, FILES), lambda p: tar_of(p, FILES, mode="w:gz")])
    data = bytearray(Path(make(tmp_path / "x")).read_bytes())
    for _ in range(draw.randint(1, 30)):
        data[draw.randrange(len(data))] = draw.choice([0, 0xFF, draw.randrange(256)])
    (tmp_path / "x").write_bytes(data)
    try:
        found = read_all(str(tmp_path / "x"))
    except (DataError, UnsafeError):
        return
    assert all(isinstance(content, bytes) for content in found.values())


def test_a_record_whose_length_is_a_book_is_left_out(tmp_path):
    assert list(read_all(wide_record(tmp_path / "archive"))) == ["a.txt"]
