"""One picture looked at: can it be used, is it what its name says, and by what marks is it compared with others."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.conversation import Clip, ClipFolder, ImageBytes, ImageFile, ImageRef, Picture
from ..errors import SampleError
from ..image.reader import open_clip
from ..image.thumbnail import Thumbnail, read_thumbnail
from .likeness import LOOK_SIDE, SIDE, hash_of, look_of
from .text import Mistake

# Above it a picture takes more than a tenth of a second to decode, and an encoder of 336 pixels sees a hundredth of it.
LARGE_PIXELS = 40_000_000
# Below it there is less than one patch of the usual encoders (14 pixels).
TINY_SIDE = 14
# Padded to a square of 336 pixels, such a picture is a strip of 28: two patches.
EXTREME_ASPECT = 12.0
# Levels of 255 between the brightest and the darkest of the 32 x 32 means: compression alone makes three or four.
BLANK_LEVELS = 6

_BY_EXTENSION = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}


@dataclass(frozen=True, slots=True)
class PictureMark:
    """What is kept of a picture to compare it with others.

    name    64 bits of its place: the same file, the same picture. Of bytes that have no file: of the bytes
    digest  64 bits of its bytes (of its name, where the pixels were not decoded)
    look    its perceptual hash, and uint8 [3 * LOOK_SIDE²] to hold two pictures against each other; None for blank ones
    """

    name: int
    digest: int
    size: tuple[int, int]
    num_bytes: int
    hash: int = 0
    look: NDArray[np.uint8] | None = None


class PictureChecker:
    """Looks at pictures; those of rows that follow each other are looked at once. Can be pickled to workers."""

    # A source has the questions about a picture side by side; a mark with its look takes 1 KB.
    REMEMBERED = 512

    def __init__(self, decode: bool):
        self.decode = decode
        self._seen: dict[ImageFile, tuple[PictureMark | None, list[Mistake]]] = {}

    def look(self, ref: ImageRef) -> tuple[PictureMark | None, list[Mistake]]:
        """The mark of a picture (of a clip: of its first frame) and all that is wrong with it."""
        if isinstance(ref, Clip | ClipFolder):
            return self._clip(ref)
        if not isinstance(ref, ImageFile):
            return self._picture(ref)
        if ref not in self._seen:
            if len(self._seen) >= self.REMEMBERED:
                del self._seen[next(iter(self._seen))]
            self._seen[ref] = self._picture(ref)
        return self._seen[ref]

    def _clip(self, ref: Clip | ClipFolder) -> tuple[PictureMark | None, list[Mistake]]:
        try:
            frames = open_clip(ref).frames
        except SampleError as error:
            return None, [(error.reason, error.message)]
        looks = [self._picture(frame) for frame in frames]
        return looks[0][0], [mistake for _, mistakes in looks for mistake in mistakes]

    def _picture(self, ref: Picture) -> tuple[PictureMark | None, list[Mistake]]:
        try:
            seen = read_thumbnail(ref, SIDE, decode=self.decode)
        except SampleError as error:
            return None, [(error.reason, error.message), *_called(ref, None)]
        mistakes = [*_called(ref, seen.format), *_shape(ref, seen)]
        name = _name(ref, seen)
        if seen.pixels is None:
            return PictureMark(name, name, seen.size, seen.num_bytes), mistakes
        # Each colour in one piece: numpy takes a tenth of the time.
        colours = np.ascontiguousarray(seen.pixels.reshape(-1, 3).T)
        if int(np.ptp(colours, axis=1).max()) < BLANK_LEVELS:
            mistakes.append(("blank_image", f"picture {ref.name!r}: is of one colour all over"))
            return PictureMark(name, seen.digest, seen.size, seen.num_bytes), mistakes
        look = look_of(seen.pixels)
        assert look.shape == (3 * LOOK_SIDE**2,)
        return PictureMark(name, seen.digest, seen.size, seen.num_bytes, hash_of(seen.pixels), look), mistakes


def _called(ref: Picture, kind: str | None) -> list[Mistake]:
    """Whether the picture's name, or the type that a data: URI declares, is that of its first bytes."""
    if kind is None or kind == "pixels":
        return []
    if isinstance(ref, ImageBytes) and ref.name.startswith("data:image/"):
        said = ref.name.removeprefix("data:image/").partition(";")[0].lower()
        expected = _BY_EXTENSION.get(f".{said}")
        said = f"is declared as image/{said}"
    else:
        ending = os.path.splitext(ref.name)[1].lower()
        expected, said = _BY_EXTENSION.get(ending), f"ends in {ending}"
    if expected is None or expected == kind:
        return []
    return [("wrong_extension", f"picture {ref.name!r}: {said}, but is {kind}")]


def _shape(ref: Picture, seen: Thumbnail) -> list[Mistake]:
    width, height = seen.size
    told: list[Mistake] = []
    if width * height > LARGE_PIXELS:
        told.append(("large_image", f"picture {ref.name!r}: has {width} x {height} pixels"))
    if min(width, height) < TINY_SIDE:
        told.append(("tiny_image", f"picture {ref.name!r}: has only {width} x {height} pixels"))
    elif max(width, height) > EXTREME_ASPECT * min(width, height):
        told.append(
            ("extreme_aspect", f"picture {ref.name!r}: is {width} x {height}, {max(seen.size) / min(seen.size):.0f} to 1")
        )
    return told


def _name(ref: Picture, seen: Thumbnail) -> int:
    """A picture that came as bytes has no place of its own: a row must hold it again to show it again."""
    if isinstance(ref, ImageBytes):
        return seen.digest
    root = getattr(ref, "root", None)
    place = os.path.normpath(os.path.join(root, ref.name)) if root is not None else ref.name
    return number_of(place)


def number_of(text: str) -> int:
    """64 bits of a hash of the text."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
