"""Pictures for a page: read through the guarded door, scaled down, encoded anew; no stranger's bytes reach a browser."""

from __future__ import annotations

import io
import threading

from PIL import Image

from ..core.conversation import Clip, ClipFolder, ImageRef
from ..errors import SampleError
from ..image.reader import open_clip, read_picture

# Longest side on the page, in pixels: what a detail view of two columns can show on a large screen.
LONGEST = 1600
# Up to so many pixels a picture stays lossless: drawings and icons, where JPEG's blocks would show.
LOSSLESS_PIXELS = 256 * 256
QUALITY = 88
# The largest picture that is read takes 267 MB decoded; browsers ask for six at a time.
_DECODERS = threading.Semaphore(2)


def encoded(ref: ImageRef, frame: int = 0, longest: int = LONGEST, quality: int = QUALITY) -> tuple[bytes, str]:
    """The picture (of a clip, frame number `frame`) as bytes for a browser, and their type.

    Raises `SampleError` as `image.reader` does, and with `missing_image` for a frame that is not there.
    """
    if isinstance(ref, Clip | ClipFolder):
        frames = open_clip(ref).frames
        if not 0 <= frame < len(frames):
            raise SampleError("missing_image", f"clip {ref.name!r}: found no frame {frame}; it has {len(frames)}")
        ref = frames[frame]
    with _DECODERS:
        picture = read_picture(ref)
        scale = longest / max(picture.size)
        if scale < 1:
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        lossless = picture.width * picture.height <= LOSSLESS_PIXELS and scale >= 1
        out = io.BytesIO()
        if lossless:
            picture.save(out, "PNG", optimize=True)
        else:
            picture.save(out, "JPEG", quality=quality)
    return out.getvalue(), "image/png" if lossless else "image/jpeg"
