"""What the first bytes of a file say, looked at before any decoder sees them."""

from __future__ import annotations

PREFIX = 64
"""So many bytes are enough for all that is asked here."""

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
    # Not read, but called by their names when they turn up.
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\x89HDF", "HDF5"),
    (b"SIMPLE  =", "FITS"),
)
# Brands of the ISO container that phones write (ISO/IEC 23008-12).
_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"hevc": "HEIC",
    b"mif1": "HEIF",
    b"msf1": "HEIF",
}
_MARKUP = (b"<!doctype", b"<html", b"<head", b"<body")


def format_of(prefix: bytes) -> str | None:
    """The format that a file's first bytes claim (`JPEG`, `PNG`, ... `HTML`), or None when they fit nothing known."""
    if prefix[:4] == b"RIFF" and prefix[8:12] == b"WEBP":
        return "WEBP"
    if prefix[4:8] == b"ftyp":
        return _BRANDS.get(prefix[8:12], "MP4")
    for signature, name in _SIGNATURES:
        if prefix.startswith(signature):
            return name
    text = prefix.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_MARKUP):
        return "HTML"
    if text.startswith((b"<?xml", b"<svg")):
        return "SVG or other XML"
    return None


def webp_size(prefix: bytes) -> tuple[int, int] | None:
    """(width, height) that a WebP file declares, or None. Needed beforehand: its decoder reserves the pixels on opening."""
    kind = prefix[12:16] if prefix[8:12] == b"WEBP" else b""
    if len(prefix) < 30:
        return None
    if kind == b"VP8X":  # two numbers of 24 bits, less one
        return 1 + int.from_bytes(prefix[24:27], "little"), 1 + int.from_bytes(prefix[27:30], "little")
    if kind == b"VP8L":  # two numbers of 14 bits, less one
        bits = int.from_bytes(prefix[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":  # two numbers of 14 bits, the upper two are a scale
        return int.from_bytes(prefix[26:28], "little") & 0x3FFF, int.from_bytes(prefix[28:30], "little") & 0x3FFF
    return None
