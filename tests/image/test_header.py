"""First bytes tell the format, and of WebP the size."""

from __future__ import annotations

import pytest
from PIL import Image

from llava_kit.image.header import PREFIX, format_of, webp_size


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_formats_by_their_first_bytes(encode, quarters, format):
    assert format_of(encode(quarters, format).data[:PREFIX]) == format


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\xef\xbb\xbf\n  <HTML lang='en'>", "HTML"),
        (b"<?xml version='1.0'?><svg>", "SVG or other XML"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftypisom", "MP4"),
        (b"8BPS\0\1", "Photoshop"),
        (b"%PDF-1.7", "PDF"),
        (b"", None),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"hello", None),
    ],
)
def test_others_are_called_by_their_names(prefix, name):
    assert format_of(prefix) == name


@pytest.mark.parametrize("keys", [{"quality": 50}, {"lossless": True}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp_says_its_size(encode, mode, keys):
    data = encode(Image.effect_noise((301, 77), 50).convert(mode), "WEBP", **keys).data
    assert webp_size(data[:PREFIX]) == (301, 77)


def test_webp_extended_header(encode):
    frames = [Image.effect_noise((301, 77), spread) for spread in (20, 50)]
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]).data
    assert data[12:16] == b"VP8X"
    assert webp_size(data[:PREFIX]) == (301, 77)


def test_no_size_without_webp(encode, quarters):
    assert webp_size(encode(quarters, "PNG").data[:PREFIX]) is None
    assert webp_size(b"RIFF\0\0\0\0WEBPVP8X") is None
    assert webp_size(b"RIFF\0\0\0\0WEBPelse" + bytes(40)) is None
