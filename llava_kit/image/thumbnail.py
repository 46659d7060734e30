"""A picture looked at as a whole: every byte decoded, so that damage shows, but at the least size, so that it is cheap.

JPEGs are decoded at a fraction of their size (libjpeg's scaled DCT): a truncated file is found as at full size, in a third of
the time. S x S pixels.
"""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from ..core.conversation import Clip, ClipFolder, ImagePixels, ImageRef
from ..errors import SampleError
from .colour import to_rgb
from .jpeg import damage_of, decode_small
from .reader import DEFAULT, ReadLimits, open_clip, opened_picture, read_pixels

_SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
)


class Thumbnail(NamedTuple):
    """What a look at a picture shows.

    size       (width, height), upright
    format     by its first bytes (`JPEG`, ...); `pixels` for a drawn picture
    num_bytes  of its file
    digest     64 bits of a hash of its bytes; 0 where the header alone was looked at
    pixels     uint8 [S, S, 3], the whole picture squeezed into a square; None where the header alone was looked at
    """

    size: tuple[int, int]
    format: str
    num_bytes: int
    digest: int
    pixels: NDArray[np.uint8] | None


def read_thumbnail(ref: ImageRef, side: int, limits: ReadLimits = DEFAULT, *, decode: bool = True) -> Thumbnail:
    """The picture (of a clip: its first frame) as `side` x `side` pixels, and what its file is.

    Without `decode` only the header is looked at. Raises `SampleError` as `read_picture` does; a file whose header is sound and
    whose pixels cannot be decoded has the reason `truncated_image`.
    """
    if isinstance(ref, Clip | ClipFolder):
        ref = open_clip(ref).frames[0]
    if isinstance(ref, ImagePixels):
        drawn = np.ascontiguousarray(read_pixels(ref, limits))
        small = _squeezed(Image.fromarray(drawn), side) if decode else None
        return Thumbnail(ref.size, "pixels", drawn.nbytes, _digest(drawn.tobytes()), small)
    with opened_picture(ref, limits) as (image, turn):
        width, height = image.size
        size = (height, width) if turn in _SIDEWAYS else (width, height)
        kind = "JPEG" if isinstance(image, JpegImagePlugin.JpegImageFile) else str(image.format)
        data, length = _bytes_of(image, decode)
        if not decode:
            return Thumbnail(size, kind, length, 0, None)
        try:
            small = _decoded(image, data, side)
        except MemoryError:
            raise
        except Exception:
            told = "its header is sound, but its pixels cannot be decoded to the end: it is cut off or damaged"
            raise SampleError("truncated_image", f"picture {ref.name!r}: {told}") from None
        return Thumbnail(size, kind, length, _digest(data), _squeezed(small, side, turn))


def _bytes_of(image: Image.Image, read: bool) -> tuple[bytes, int]:
    """The bytes of the file (none of them if they are not to be `read`) and their number."""
    stream = image.fp  # type: ignore[attr-defined]  # every file of Pillow has it
    place, length = stream.tell(), stream.seek(0, os.SEEK_END)
    stream.seek(0)
    data = stream.read() if read else b""
    stream.seek(place)
    return data, length


def _decoded(image: Image.Image, data: bytes, side: int) -> Image.Image:
    """The picture at no less than `side` pixels where its format allows less than all, else whole.

    Raises whatever a decoder raises. Pillow fills with grey what a JPEG lacks that was cut off and then closed properly.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        if image.mode == "RGB":
            if (pixels := decode_small(data, 2 * side)) is not None:
                return Image.fromarray(pixels)
            if (damage := damage_of(data, side)) is not None:
                raise ValueError(damage)
        image.draft(image.mode, (2 * side, 2 * side))
    image.load()
    return image


def _squeezed(picture: Image.Image, side: int, turn: Image.Transpose | None = None) -> NDArray[np.uint8]:
    """uint8 [side, side, 3]; a plain picture is shrunk before it is turned, since that costs by the pixel."""
    if picture.mode == "RGB" and not picture.has_transparency_data:
        small = picture.resize((side, side), Image.Resampling.BOX)
        return np.array(small if turn is None else small.transpose(turn))
    whole = to_rgb(picture if turn is None else picture.transpose(turn))
    return np.array(whole.resize((side, side), Image.Resampling.BOX))


def _digest(data: bytes) -> int:
    # Processors of today have instructions for SHA-256: half of the time of BLAKE2.
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")
