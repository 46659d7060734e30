"""The one guarded door by which pictures come in: what may be opened, how large, and what is said when it cannot be.

A picture file is hostile until its header has been checked: place, format and size are looked at before a pixel is decoded.
Nothing here is shared between calls, so threads and forked workers may read at the same time.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ..core.conversation import Clip, ClipFolder, ImageBytes, ImageFile, ImagePixels, ImageRef, ImageUrl, Picture
from ..errors import SampleError
from .colour import to_rgb
from .header import PREFIX, format_of, webp_size
from .jpeg import decode_jpeg
from .memory import pixels_of

# Called directly: `Image.open` first lets Pillow print its own warning about large pictures, whatever our limit says.
_DECODERS: dict[str, Callable[..., Image.Image]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,  # also the several pictures in one JPEG that phones write (MPO)
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}

# The EXIF orientation that a picture is stored in, and what turns it upright (CIPA DC-008, tag 274).
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}

# Bytes that a decoder is given at a time. With Pillow's own 64 KB it stops and starts within most photographs: 3 % of the time.
_BLOCK = 2**20

# What a frame's file may end in; what it is, its first bytes say.
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*://|data:|file:|pipe:)", re.IGNORECASE)


@dataclass(frozen=True)
class ReadLimits:
    """Bounds that a picture must keep; all are checked before it is decoded.

    `max_bytes` is of the file: an 89 megapixel photograph takes some 40 MB as a JPEG. `max_pixels` is just under the 89.5
    million at which Pillow begins to suspect a decompression bomb (267 MB as RGB). `max_side` is the longest side that a JPEG
    can have. `formats` are those read here; Pillow knows forty more, each a parser that a stranger's file could choose.

    A picture of more than `bomb_pixels` may hold `max_pixels_per_byte` at most: flat JPEGs reach 170, decompression bombs in
    PNG 340 to 1000. Black-and-white pictures are exempt, since scanned pages reach 1000 honestly.
    """

    max_bytes: int = 128 * 2**20
    max_pixels: int = 89_000_000
    max_side: int = 65_535
    bomb_pixels: int = 2**24
    max_pixels_per_byte: int = 200
    formats: tuple[str, ...] = tuple(_DECODERS)


DEFAULT = ReadLimits()

_Encoded = ImageFile | ImageBytes | ImageUrl


def read_picture(ref: ImageRef, limits: ReadLimits = DEFAULT) -> Image.Image:
    """The picture as RGB, upright, with transparency on white and deep greys scaled; of animations and clips the first frame.

    Raises `SampleError` with one of the reasons `missing_image`, `outside_root`, `url_not_allowed`, `format_not_allowed`,
    `too_many_bytes`, `too_many_pixels`, `unreadable_image`. Its message never repeats what a decoder said.
    """
    ref = _one_picture(ref)
    if isinstance(ref, ImagePixels):
        return Image.fromarray(_drawn(ref, limits))
    with opened_picture(ref, limits) as (image, turn):
        picture = _upright_rgb(image, turn)
        return picture.copy() if picture is image else picture  # a plain picture, without the decoder that made it


def read_pixels(ref: ImageRef, limits: ReadLimits = DEFAULT) -> NDArray[np.uint8]:
    """`read_picture` as uint8 [height, width, 3], as `image.memory.pixels_of` gives it.

    A drawn picture comes as it was drawn, with no detour through Pillow.
    """
    ref = _one_picture(ref)
    if isinstance(ref, ImagePixels):
        return _drawn(ref, limits)
    with opened_picture(ref, limits) as (image, turn):
        at_once = _plain_jpeg(image) if turn is None else None
        return pixels_of(_upright_rgb(image, turn)) if at_once is None else at_once


def _plain_jpeg(image: Image.Image) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG in colour that `image.jpeg` takes; of all else None."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.mode != "RGB" or image.fp is None:
        return None
    image.fp.seek(0)
    return decode_jpeg(image.fp.read(), image.size)


def _upright_rgb(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    """The decoded picture, RGB and upright; `image` itself where it needs no change."""
    image.load()
    turned = image if turn is None else image.transpose(turn)
    return turned if turned.mode == "RGB" and not turned.has_transparency_data else to_rgb(turned)


def picture_size(ref: ImageRef, limits: ReadLimits = DEFAULT) -> tuple[int, int]:
    """(width, height) of what `read_picture` would give, from the header alone. Raises as `read_picture` does.

    A file whose header is sound may still prove truncated when it is read.
    """
    ref = _one_picture(ref)
    if isinstance(ref, ImagePixels):
        _check_size(ref.name, ref.size, limits)
        return ref.size
    with opened_picture(ref, limits) as (image, turn):
        width, height = image.size
        return (height, width) if turn in _SIDEWAYS else (width, height)


def read_encoded(ref: _Encoded, limits: ReadLimits = DEFAULT) -> tuple[bytes, str]:
    """The bytes of a picture file as they are, their header checked, and their format (`JPEG`). Raises as `read_picture`."""
    with _stream(ref, limits) as stream:
        data = stream.read(limits.max_bytes + 1)
    # What was read is looked at, not the file once more: it may have changed.
    with opened_picture(ImageBytes(data, ref.name), limits):
        return data, format_of(data[:PREFIX]) or ""


def open_clip(ref: Clip | ClipFolder) -> Clip:
    """The clip with its frames named; none of them is read yet.

    In a folder, files with a picture's ending are frames, in the order of their names; numbers count by value (`9.png`
    comes before `10.png`).

    Raises `SampleError` (`missing_image`, `outside_root`, `url_not_allowed`, `unreadable_image`, or `video` for a video file).
    """
    if isinstance(ref, Clip):
        return ref
    folder = _resolve(ImageFile(ref.path, ref.root))
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(_ENDINGS) and entry.is_file()]
    except FileNotFoundError:
        raise _error("missing_image", ref.path, "there is no such folder") from None
    except NotADirectoryError:
        told = "is a file; expected a folder with pictures of the frames, as no video is decoded here"
        raise _error("video", ref.path, told) from None
    except OSError as error:
        raise _error("unreadable_image", ref.path, f"cannot be opened: {os.strerror(error.errno or 0)}") from None
    names = sorted((name for name in names if not name.startswith(".")), key=_by_number)
    if not names:
        raise _error("missing_image", ref.path, f"holds no pictures; expected frames ending in {', '.join(_ENDINGS)}")
    frames = tuple(ImageFile(os.path.join(ref.path, name), ref.root) for name in names)
    times = tuple(number / ref.frames_per_second for number in range(len(frames)))
    return Clip(frames, times, len(frames) / ref.frames_per_second, ref.path)


def _by_number(name: str) -> list[tuple[int, str]]:
    """The stretches of digits by value, all else by letters."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _one_picture(ref: ImageRef) -> Picture:
    return open_clip(ref).frames[0] if isinstance(ref, (Clip, ClipFolder)) else ref


@contextmanager
def opened_picture(ref: _Encoded, limits: ReadLimits) -> Iterator[tuple[Image.Image, Image.Transpose | None]]:
    """The picture with its header read and checked, and the turn it still needs; what goes wrong inside is its own fault."""
    name = ref.name
    with _stream(ref, limits) as stream:
        try:
            prefix = stream.read(PREFIX)
            decoder = _DECODERS[_check_format(name, prefix, limits)]
            if declared := webp_size(prefix):
                _check_size(name, declared, limits)
            stream.seek(0)
            image = decoder(stream)
            image.decodermaxblock = _BLOCK  # type: ignore[attr-defined]  # every file of Pillow has it
            _check_size(name, image.size, limits)
            if image.mode != "1":
                _check_density(name, image.size, stream, limits)
            yield image, _turn(image)
        except SampleError:
            raise
        except Image.DecompressionBombError:
            raise _error("too_many_pixels", name, f"declares more pixels than are allowed ({limits.max_pixels:,})") from None
        except Exception:  # decoders raise nearly anything on broken files, and their texts hold addresses of memory
            raise _error("unreadable_image", name, "is damaged or not what its first bytes claim") from None


def _stream(ref: _Encoded, limits: ReadLimits) -> IO[bytes]:
    """The bytes of the picture, opened for reading, their place and number checked."""
    if isinstance(ref, ImageUrl):
        told = "is a URL; expected a file on this machine, nothing is fetched (`llava-kit data convert --allow-urls` does)"
        raise _error("url_not_allowed", ref.name, told)
    if isinstance(ref, ImageBytes):
        _check_bytes(ref.name, len(ref.data), limits)
        return io.BytesIO(ref.data)
    path = _resolve(ref)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would hang, a device never end
            raise _error("unreadable_image", ref.path, "is not a regular file")
        _check_bytes(ref.path, status.st_size, limits)
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise _error("missing_image", ref.path, f"there is no such file{_under(ref)}") from None
    except OSError as error:
        raise _error("unreadable_image", ref.path, f"cannot be opened: {os.strerror(error.errno or 0)}") from None


def _resolve(ref: ImageFile) -> str:
    """The path to open. With a root, the file that it leads to, links followed, must lie under that folder."""
    if _URL.match(ref.path):
        raise _error("url_not_allowed", ref.path, "is a URL; expected a file on this machine, nothing is fetched")
    if "\0" in ref.path or any("\ud800" <= letter <= "\udfff" for letter in ref.path):
        raise _error("missing_image", ascii(ref.path)[1:-1], "no file can have such a name")
    if ref.root is None:
        return ref.path
    root = os.path.realpath(ref.root)
    path = os.path.realpath(os.path.join(root, ref.path))
    if os.path.commonpath((root, path)) != root:
        raise _error("outside_root", ref.path, f"leads out of its folder{_under(ref)}; pictures are read from there only")
    return path


def _under(ref: ImageFile) -> str:
    return "" if ref.root is None else f" (under {ref.root!r})"


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The turn that makes the picture upright, read from the header; None for upright, also when the EXIF data are broken.

    Pillow turns TIFF pictures itself. A PNG may carry EXIF behind its pixels, where no header shows it: that is not looked at,
    so that size and picture always agree.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return None
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a picture is not lost for a damaged note about it
        return None


def _drawn(ref: ImagePixels, limits: ReadLimits) -> NDArray[np.uint8]:
    """A drawn picture, held to what its reference declares."""
    _check_size(ref.name, ref.size, limits)
    pixels: Any = np.asarray(ref.render())
    expected = (ref.size[1], ref.size[0], 3)
    if pixels.dtype != np.uint8 or pixels.shape != expected:
        found = f"{pixels.dtype} {list(pixels.shape)}"
        raise _error("unreadable_image", ref.name, f"was drawn as {found}; expected uint8 {list(expected)}")
    return pixels


def _check_format(name: str, prefix: bytes, limits: ReadLimits) -> str:
    found = format_of(prefix)
    if found in limits.formats and found in _DECODERS:
        return found
    expected = f"expected one of {', '.join(limits.formats)}"
    if found is None:
        raise _error("unreadable_image", name, f"is no picture file ({expected})")
    # A web page saved under a picture's name is a broken download, not a picture in a foreign format.
    reason = "unreadable_image" if found == "HTML" else "format_not_allowed"
    raise _error(reason, name, f"is {found}; {expected}")


def _check_bytes(name: str, count: int, limits: ReadLimits) -> None:
    if count == 0:
        raise _error("unreadable_image", name, "is empty (0 bytes)")
    if count > limits.max_bytes:
        raise _error("too_many_bytes", name, f"has {count:,} bytes; allowed are {limits.max_bytes:,}")


def _check_size(name: str, size: tuple[int, int], limits: ReadLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise _error("unreadable_image", name, f"has no pixels ({width} x {height})")
    if width * height > limits.max_pixels:
        raise _error("too_many_pixels", name, f"has {width} x {height} pixels; allowed are {limits.max_pixels:,} in all")
    if max(width, height) > limits.max_side:
        raise _error("too_many_pixels", name, f"has {width} x {height} pixels; the longest side allowed is {limits.max_side:,}")


def _check_density(name: str, size: tuple[int, int], stream: IO[bytes], limits: ReadLimits) -> None:
    pixels, place = size[0] * size[1], stream.tell()
    count = stream.seek(0, os.SEEK_END)
    stream.seek(place)  # decoders go on from where they stopped
    if pixels > limits.bomb_pixels and pixels > count * limits.max_pixels_per_byte:
        declared = f"declares {size[0]} x {size[1]} pixels in {count:,} bytes, as a decompression bomb does"
        allowed = f"above {limits.bomb_pixels:,} pixels, {limits.max_pixels_per_byte} a byte are allowed"
        raise _error("too_many_pixels", name, f"{declared}; {allowed}")


def _error(reason: str, name: str, message: str) -> SampleError:
    shown = name if len(name) <= 200 else f"{name[:100]}...{name[-80:]}"
    return SampleError(reason, f"picture {shown!r}: {message}")
