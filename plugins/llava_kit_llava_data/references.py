"""Pictures and videos by what a row calls them: paths, file: URLs, data: URIs, addresses. Nothing is opened or fetched here."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any
from urllib.parse import unquote, urlsplit

from llava_kit.core.conversation import ClipFolder, ImageBytes, ImageFile, ImageRef, ImageUrl, shown_url
from llava_kit.errors import SampleError

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def read_reference(reference: Any, image_root: str) -> ImageRef:
    """A picture by what a row calls it: a path under `image_root`, a file: URL, a data: URI, or an http(s) address.

    Parquet's form is taken too: an object with `path` or `url`, or `bytes` as base64 text.
    """
    if isinstance(reference, dict):
        reference = _of_object(reference)
    if not isinstance(reference, str) or not reference:
        raise SampleError("bad_row", f"a picture is called {_short(reference)}; expected a path or a data: URI")
    scheme = reference[: match.end()].lower() if (match := _SCHEME.match(reference)) else ""
    if scheme == "data:":
        return _read_data_uri(reference)
    if scheme == "file:":
        return ImageFile(unquote(urlsplit(reference).path), image_root)
    if reference[len(scheme) : len(scheme) + 2] == "//" and scheme:
        if scheme in ("http:", "https:"):
            return ImageUrl(reference)
        raise SampleError(
            "url_not_allowed", f"picture {shown_url(reference)!r}: is a {scheme} URL; expected a path, or http(s)"
        )
    return ImageFile(reference, image_root)


def read_folder(reference: Any, image_root: str, frames_per_second: float) -> ClipFolder:
    """A video by what a row calls it: a folder of frames under `image_root`."""
    if not isinstance(reference, str) or not reference:
        raise SampleError("bad_row", f"a video is called {_short(reference)}; expected a folder with pictures of its frames")
    if "://" in reference[:16]:
        told = "is a URL; expected a folder under image_root, no video is fetched"
        raise SampleError("url_not_allowed", f"video {shown_url(reference)!r}: {told}")
    return ClipFolder(reference, image_root, frames_per_second)


def _of_object(entry: dict[str, Any]) -> Any:
    if isinstance(entry.get("bytes"), str):
        return f"data:image/any;base64,{entry['bytes']}"
    return next((entry[key] for key in ("url", "path", "file_name") if entry.get(key)), None)


def _read_data_uri(uri: str) -> ImageBytes:
    head, comma, body = uri.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise SampleError("unreadable_image", f"picture {head[:60]!r}: expected data:image/...;base64,...")
    try:
        return ImageBytes(base64.b64decode(body, validate=True), head[:60])
    except (binascii.Error, ValueError):
        raise SampleError("unreadable_image", f"picture {head[:60]!r}: its base64 text is damaged") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
