"""Hostile and broken pictures: each is refused with its reason, quickly and quietly, or read as a person would see it."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import time
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llava_kit.core.conversation import ImageBytes, ImageFile
from llava_kit.errors import SampleError
from llava_kit.image import reader
from llava_kit.image.reader import ReadLimits, picture_size, read_picture

REASONS = {
    *("missing_image", "outside_root", "url_not_allowed", "format_not_allowed"),
    *("too_many_bytes", "too_many_pixels", "unreadable_image"),
}
NO_ADDRESS = re.compile(r"0x[0-9a-f]{4,}|BytesIO|PIL\.|Traceback")


def file_of(picture: Image.Image, format: str, **keys) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **keys)
    return stream.getvalue()


def photograph(mode: str = "RGB") -> Image.Image:
    return Image.effect_noise((40, 30), 90).convert(mode)


def refusal(ref: ImageFile | ImageBytes, limits: ReadLimits | None = None) -> SampleError:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SampleError) as caught:
            read_picture(ref, limits or ReadLimits())
    error = caught.value
    assert error.reason in REASONS
    assert not NO_ADDRESS.search(str(error)), str(error)
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
    return error


# Row 17: what a download leaves behind.


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files(format):
    data = file_of(photograph(), format)
    for part in (len(data) // 2, 20, 5):
        assert refusal(ImageBytes(data[:part])).reason == "unreadable_image"


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 500, b"not a picture", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"]
)
def test_files_that_are_no_pictures(tmp_path, data):
    (tmp_path / "a.jpg").write_bytes(data)
    for ref in (ImageBytes(data, "a.jpg"), ImageFile("a.jpg", str(tmp_path))):
        error = refusal(ref)
        assert error.reason == "unreadable_image"
        assert "'a.jpg'" in str(error)
    assert ("HTML" in str(error)) == data.startswith(b"<!DOCTYPE")


def test_corrupt_pixels():
    data = bytearray(file_of(photograph(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert refusal(ImageBytes(bytes(data))).reason == "unreadable_image"


# Row 18: small files that want much memory.


def png(width: int, height: int, body: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def real_bomb() -> bytes:
    """88 million black pixels in a quarter of a megabyte: below every limit on pixels."""
    pack, line = zlib.compressobj(9), bytes(1 + 3 * 11_000)
    body = b"".join([*(pack.compress(line * 50) for _ in range(160)), pack.flush()])
    return png(11_000, 8_000, body)


def bombs() -> dict[str, bytes]:
    webp = bytearray(file_of(photograph(), "WEBP", lossless=True))
    webp[21:25] = struct.pack("<I", 0x3FFF | 0x3FFF << 14)
    below = bytearray(webp)  # where Pillow itself would still go on
    below[21:25] = struct.pack("<I", 9_999 | 9_999 << 14)
    extended = b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xff\xff\xff" * 2 + bytes(40)
    jpeg = bytearray(file_of(photograph(), "JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", 65_000, 65_000)
    bmp = bytearray(file_of(photograph(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 30_000, 30_000)
    gif = bytearray(file_of(photograph(), "GIF"))
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    return {
        "a real one": real_bomb(),
        "400 megapixels": png(20_000, 20_000),
        "120 megapixels": png(12_000, 10_000),
        "four thousand million": png(2**31 - 1, 2**31 - 1),
        "a line of ten million": png(10_000_000, 1),
        "lossless webp": bytes(webp),
        "webp of 100 megapixels": bytes(below),
        "extended webp": extended,
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
        "gif": bytes(gif),
    }


def test_bombs_are_refused_on_the_header():
    for name, data in bombs().items():
        ref = ImageBytes(data, name)
        start = time.process_time()
        error = refusal(ref)
        assert time.process_time() - start < 1, name  # decoding it would take longer; on a calm machine 0.05 s
        assert error.reason == "too_many_pixels", (name, str(error))
        with pytest.raises(SampleError):
            picture_size(ref)


def test_the_webp_decoder_never_sees_a_bomb(monkeypatch):
    """It reserves the pixels as soon as it is made."""

    def decode(stream):
        raise AssertionError("the decoder was called")

    monkeypatch.setitem(reader._DECODERS, "WEBP", decode)
    for name, data in bombs().items():
        if "webp" in name:
            assert refusal(ImageBytes(data)).reason == "too_many_pixels", name


def test_bombs_take_no_memory():
    script = (
        "import resource, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from test_images import bombs, file_of, photograph\n"
        "from llava_kit.core.conversation import ImageBytes\n"
        "from llava_kit.errors import SampleError\n"
        "from llava_kit.image.reader import read_picture\n"
        "files = bombs()\n"
        "read_picture(ImageBytes(file_of(photograph(), 'WEBP')))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for data in files.values():\n"
        "    try:\n"
        "        read_picture(ImageBytes(data))\n"
        "    except SampleError:\n"
        "        continue\n"
        "    raise SystemExit('a bomb was read')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    run = subprocess.run([sys.executable, "-c", script, os.path.dirname(__file__)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 50 * 1024  # KiB
    assert "DecompressionBomb" not in run.stderr


def test_too_many_bytes_are_not_read(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.write(png(10, 10))
        file.truncate(10 * 2**30)  # sparse: no disk is taken
    start = time.process_time()
    assert refusal(ImageFile(str(path))).reason == "too_many_bytes"
    assert time.process_time() - start < 1  # reading ten gigabytes would take longer


# Row 19: odd pictures.


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F"])
def test_odd_modes_are_read(mode):
    format = "TIFF" if mode in ("CMYK", "F", "I", "LA") else "PNG"
    picture = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)) if mode == "I;16" else photograph(mode)
    read = read_picture(ImageBytes(file_of(picture, format)))
    assert (read.mode, read.size) == ("RGB", (40, 30))


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (2, 3)])
def test_extreme_shapes_become_tiles(size):
    # Imported here: the process that measures memory imports this file, and can do without torch.
    from llava_kit.core.tiles import EncoderSpec, Grid
    from llava_kit.image.tiling import Tiler, TilingOptions

    read = read_picture(ImageBytes(file_of(Image.new("RGB", size, (9, 9, 9)), "PNG")))
    mean = (0.5, 0.5, 0.5)
    for mode in ("square", "pad", "resize", "anyres"):
        tiler = Tiler(EncoderSpec(32, Grid(4, 4), 8, mean, mean), TilingOptions(mode, ((32, 64), (64, 32), (64, 64))))
        tiles, grid = tiler.cut(read)
        assert tiles.shape == (grid.num_tiles, 3, 32, 32)
        if mode != "pad":  # which makes a hundredth of a pixel of a thread
            assert (np.abs(tiles.astype(int) - 9) <= 1).any()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1" + bytes(40), "AVIF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n" + bytes(40), "PostScript"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"8BPS\0\1" + bytes(40), "Photoshop"),
        (b"SIMPLE  =                    T" + bytes(80), "FITS"),
    ],
)
def test_other_formats_are_refused_by_name(data, name):
    error = refusal(ImageBytes(data, "a.jpg"))
    assert error.reason == "format_not_allowed"
    assert name in str(error)
    assert "JPEG, PNG, WEBP, GIF, BMP, TIFF" in str(error)


# Row 21: paths that lead elsewhere.


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    photograph().save(tmp_path / "secret.png")
    photograph().save(root / "good.png")
    (tmp_path / "images_beside").mkdir()
    photograph().save(tmp_path / "images_beside" / "secret.png")
    os.symlink(tmp_path / "secret.png", root / "link.png")
    os.symlink(tmp_path, root / "up")
    return root


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "../../../../../../etc/passwd",
        "/etc/passwd",
        "link.png",
        "up/secret.png",
        "../images_beside/secret.png",
        ".",
    ],
)
def test_paths_that_leave_their_folder(folder, path, monkeypatch):
    opened = []
    monkeypatch.setattr("builtins.open", lambda *arguments, **_: opened.append(arguments))
    error = refusal(ImageFile(path, str(folder)))
    assert error.reason == ("unreadable_image" if path == "." else "outside_root")
    assert opened == []


@pytest.mark.parametrize(
    "path",
    [
        *("http://127.0.0.1/a.png", "https://example.org/a.png", "file:///etc/passwd", "FILE:/etc/passwd"),
        *("data:image/png;base64,AAAA", "pipe:cat /etc/passwd", "s3://bucket/a.png"),
    ],
)
def test_urls_are_not_fetched(folder, path, monkeypatch):
    def never(*arguments, **_):
        raise AssertionError(f"a socket was opened: {arguments}")

    monkeypatch.setattr("socket.socket.connect", never)
    for ref in (ImageFile(path), ImageFile(path, str(folder))):
        assert refusal(ref).reason == "url_not_allowed"


@pytest.mark.parametrize("path", ["", "a\0b.png", "\ud800.png", "a" * 5000, "good.png/x.png", "nothing.png"])
def test_names_that_no_file_has(folder, path):
    error = refusal(ImageFile(path, str(folder)))
    assert error.reason in ("missing_image", "unreadable_image")
    str(error).encode()


def test_pipes_and_devices_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero", tmp_path):
        assert refusal(ImageFile(str(path))).reason == "unreadable_image"


def test_a_picture_without_permission(tmp_path, monkeypatch):
    photograph().save(tmp_path / "a.png")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    error = refusal(ImageFile(str(tmp_path / "a.png")))
    assert error.reason == "unreadable_image"
    assert "Permission denied" in str(error)


# Anything at all.

FILES = [file_of(photograph(), format) for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]
FILES += [file_of(photograph("RGBA"), "WEBP", lossless=True), file_of(photograph("P"), "PNG", transparency=3)]
exif = Image.Exif()
exif[0x0112] = 6
FILES += [file_of(photograph(), format, exif=exif) for format in ("JPEG", "TIFF", "PNG", "WEBP")]
# The numbers that hurt decoders: zero, one less than a power of two, signs.
HURTFUL = [b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\1\0"]
patches = st.lists(
    st.tuples(st.integers(0, 2000), st.one_of(st.sampled_from(HURTFUL), st.binary(min_size=1, max_size=4))),
    min_size=1,
    max_size=6,
)


def outcome(ask, ref: ImageBytes, limits: ReadLimits):
    try:
        return ask(ref, limits)
    except SampleError as error:
        if error.reason not in REASONS or NO_ADDRESS.search(str(error)):
            raise AssertionError(f"{error.reason}: {error}") from error
        return error


@settings(max_examples=800, deadline=None)
@given(st.sampled_from(FILES), patches, st.one_of(st.none(), st.integers(0, 3000)))
def test_mutated_files_are_read_or_refused(data, changes, length):
    broken = bytearray(data)
    for place, patch in changes:
        place = place % min(len(data), 400)  # headers, where the numbers are
        broken[place : place + len(patch)] = patch
    ref, limits = ImageBytes(bytes(broken[:length])), ReadLimits(max_pixels=1_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        size, read = (outcome(ask, ref, limits) for ask in (picture_size, read_picture))
    if isinstance(size, SampleError):
        assert isinstance(read, SampleError)
        assert str(read) == str(size)
    elif isinstance(read, SampleError):
        assert read.reason == "unreadable_image"
    else:
        assert (read.mode, read.size) == ("RGB", size)
