"""Pictures with captions and boxes: COCO, RefCOCO, Visual Genome, caption lists such as CC3M's and LCS's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llava_kit import hookimpl

if TYPE_CHECKING:
    from .options import CapsBoxesOptions, CaptionOptions, CocoOptions, RefcocoOptions, VisualGenomeOptions

_PICTURE_WORDS = (b'"image"', b'"url"', b'"image_url"', b'"file_name"', b'"filename"', b'"path"', b'"image_path"')
_COCO_KEYS = {"info", "licenses", "images", "annotations", "categories", "type"}


def build_coco(options: CocoOptions):
    """Return a `CocoSource`; its files are indexed now, rows are parsed when asked for."""
    from .coco import CocoSource

    return CocoSource(options)


def build_captions(options: CaptionOptions):
    """Return a `CaptionSource`; its file is indexed now, rows are read when asked for."""
    from .captions import CaptionSource

    return CaptionSource(options)


def build_refcoco(options: RefcocoOptions):
    """Return a `RefcocoSource`; the expressions are read now, boxes when asked for."""
    from .refcoco import RefcocoSource

    return RefcocoSource(options)


def build_visual_genome(options: VisualGenomeOptions):
    """Return a `VisualGenomeSource`; its files are indexed now, rows are parsed when asked for."""
    from .visual_genome import VisualGenomeSource

    return VisualGenomeSource(options)


def build_caps_boxes(options: CapsBoxesOptions):
    """Return a `CapsBoxesSource`; its file is indexed now, rows are parsed when asked for."""
    from .caps_boxes import CapsBoxesSource

    return CapsBoxesSource(options)


def recognise_coco(path: str, head: bytes):
    """One object that begins with COCO's own sections, pictures among them or rows that are about pictures."""
    if not _begins(head, b"{") or b'"question' in head:
        return None
    from llava_kit.core.json_object import section_names

    names = set(section_names(head))
    return {"path": path} if names & {"images", "annotations"} and names <= _COCO_KEYS else None


def recognise_captions(path: str, head: bytes):
    """JSON rows with a caption and a picture, or a table whose first lines have them."""
    if _begins(head, b"[") or _begins(head, b"{"):
        rows = (b'"caption"' in head or b'"blip_caption"' in head) and any(word in head for word in _PICTURE_WORDS)
        others = (b'"conversations"', b'"messages"', b'"images"', b'"annotations"', b'"data"', b'"instances"', b'"question')
        return {"path": path} if rows and not any(word in head for word in others) else None
    from .table_head import looks_like_captions

    return {"path": path} if looks_like_captions(head) else None


def recognise_refcoco(path: str, head: bytes):
    """A pickle or JSON of expressions: rows with `sent_ids` or `ref_id`, and `sentences`."""
    pickled = head[:1] == b"\x80" or head[:2] in (b"(l", b"(d", b"]q")
    if not (pickled or _begins(head, b"[") or _begins(head, b"{")):
        return None
    return {"path": path} if b"sentences" in head and (b"ref_id" in head or b"sent_ids" in head) else None


def recognise_visual_genome(path: str, head: bytes):
    """Rows of `regions` that have a `phrase`."""
    return {"path": path} if _begins(head, b"[") and b'"regions"' in head and b'"phrase"' in head else None


def recognise_caps_boxes(path: str, head: bytes):
    """Rows with `captions` and `instances`, and no conversation yet."""
    rows = (_begins(head, b"[") or _begins(head, b"{")) and b'"captions"' in head and b'"instances"' in head
    return {"path": path} if rows and not re.search(rb'"(conversations|messages)"', head) else None


def _begins(head: bytes, first: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == first


def _loader(name: str):
    """Options are pydantic classes, which take half a millisecond each: loaded when they are asked for."""

    def load():
        from .options import OPTIONS

        return OPTIONS[name]

    return load


@hookimpl
def register_sources(register):
    for name, summary, build, recognise in (
        ("coco", "COCO's pictures with their captions, their boxes, or both.", build_coco, recognise_coco),
        (
            "captions",
            "Pictures with a caption each, from a table (TSV, CSV) or JSON: CC3M, LCS, BLIP.",
            build_captions,
            recognise_captions,
        ),
        (
            "refcoco",
            "RefCOCO, RefCOCO+ and RefCOCOg: expressions for things in COCO's pictures, asked both ways.",
            build_refcoco,
            recognise_refcoco,
        ),
        (
            "visual_genome",
            "Visual Genome's regions: phrases for places in a picture, asked both ways.",
            build_visual_genome,
            recognise_visual_genome,
        ),
        (
            "caps_boxes",
            "Rows of captions and boxes, as in LLaVA's caps_boxes_coco2014_val_80.jsonl: what `data generate` is fed.",
            build_caps_boxes,
            recognise_caps_boxes,
        ),
    ):
        register(name, options=_loader(name), build=build, summary=summary, recognise=recognise)
