"""Picture files on disk, called by what is in them: the same picture is written once, however many rows show it.

A picture that is a file already keeps its bytes; only one that was drawn is encoded, as PNG, which loses nothing.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..core.conversation import Clip, ClipFolder, ImagePixels, Picture
from ..image.reader import open_clip, read_encoded, read_picture

ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
# 128 bits of SHA-256: two of a thousand million pictures are called the same with a chance of 10^-21.
_DIGITS = 32


class PictureFile(NamedTuple):
    """The bytes of a picture file, and what its name should end in."""

    data: bytes
    ending: str


def picture_file(ref: Picture) -> PictureFile:
    """The picture as a file: its own bytes where it has some, their header checked, else a PNG. Raises as `read_picture`."""
    if not isinstance(ref, ImagePixels):
        data, format = read_encoded(ref)
        return PictureFile(data, ENDINGS[format])
    buffer = io.BytesIO()
    read_picture(ref).save(buffer, "PNG")
    return PictureFile(buffer.getvalue(), "png")


def clip_files(ref: Clip | ClipFolder) -> list[PictureFile]:
    """The frames of a clip as files, in order. Raises as `read_picture`."""
    return [picture_file(frame) for frame in open_clip(ref).frames]


class PictureStore:
    """Writes picture files under a folder; several processes may write the same pictures at the same time.

    A file appears under its name when it is whole. Unfinished ones lie in `unfinished`, which must be on the same disk.
    """

    def __init__(self, folder: str | os.PathLike[str], unfinished: str | os.PathLike[str]):
        self.folder, self.unfinished = Path(folder), Path(unfinished)

    def add(self, picture: PictureFile) -> str:
        """Writes the picture unless it is there, and gives its name: `images/ab/ab12....jpg`."""
        digest = _digest([picture])
        return self._write(f"images/{digest[:2]}/{digest}.{picture.ending}", picture.data)

    def add_clip(self, frames: Sequence[PictureFile]) -> str:
        """Writes the frames of a clip unless they are there, and gives the name of their folder: `videos/ab/ab12...`."""
        digest = _digest(frames)
        name = f"videos/{digest[:2]}/{digest}"
        for number, frame in enumerate(frames):
            self._write(f"{name}/{number:05}.{frame.ending}", frame.data)
        return name

    def count(self) -> int:
        """How many picture files there are, those of clips left out."""
        return sum(len(files) for _, _, files in os.walk(self.folder / "images"))

    def _write(self, name: str, data: bytes) -> str:
        path = self.folder / name
        try:
            if path.stat().st_size == len(data):
                return name
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.unfinished / f"{os.getpid()}-{path.name}"
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
        return name


def _digest(pictures: Sequence[PictureFile]) -> str:
    digest = hashlib.sha256()
    for picture in pictures:
        if len(pictures) > 1:  # where one frame ends and the next begins must count too
            digest.update(len(picture.data).to_bytes(8, "little"))
        digest.update(picture.data)
    return digest.hexdigest()[:_DIGITS]
