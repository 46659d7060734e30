"""`llava-kit data convert`: any data source in a form that every other tool reads, gone on with after whatever ended it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .data_source import WORDS, WORDS_HELP, add_source

if TYPE_CHECKING:
    from ..convert.run import Converted

# Of what was rejected so much is shown; all of it stands in rejected.jsonl.
_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar=f"[{WORDS}] DEST", help=f"{WORDS_HELP}; then a new folder")
    parser.add_argument(
        "--to",
        default="llava",
        metavar="FORM",
        help="llava (data.json and picture files; the default), jsonl (data.jsonl), messages (data.jsonl as OpenAI has it), "
        "parquet, webdataset (shards with the pictures in them)",
    )
    parser.add_argument(
        "--pictures",
        choices=("copy", "keep"),
        default="copy",
        help="copy: their bytes, each picture once; keep: rows refer to where they are, under --image-root",
    )
    parser.add_argument("--image-root", metavar="FOLDER", help="with --pictures keep: the folder that rows refer from")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; the result is the same (default: one a core)")
    parser.add_argument(
        "--allow-urls", action="store_true", help="fetch pictures that rows name by http(s), from public addresses only"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    add_source(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..convert.block import Settings
    from ..convert.fetch import Fetcher
    from ..convert.forms import form_of
    from ..convert.run import convert
    from ..errors import LlavaKitError
    from .data_source import open_source
    from .progress import progress

    if not arguments.words:
        raise LlavaKitError("expected DEST, a folder to write to")
    *words, destination = arguments.words
    form_of(arguments.to)
    settings = Settings(arguments.to, _keep_root(arguments), Fetcher() if arguments.allow_urls else None)
    workers = _workers(arguments.workers)
    opened = open_source(arguments, words)
    try:
        with progress("convert", "samples") as show:
            described = opened.part.model_dump(mode="json")
            done = convert(opened.source, opened.count, destination, settings, described=described, workers=workers, show=show)
    except KeyboardInterrupt:
        print(f"{destination}: what is written so far is kept; the same command goes on", file=sys.stderr)
        raise
    return _tell(done, arguments)


def _keep_root(arguments: argparse.Namespace) -> str | None:
    from ..errors import LlavaKitError

    if arguments.pictures == "copy":
        if arguments.image_root is not None:
            told = "belongs to --pictures keep; where pictures are read from is the source's own option, image_root=FOLDER"
            raise LlavaKitError(f"--image-root: {told}")
        return None
    if arguments.image_root is None:
        raise LlavaKitError("--pictures keep: say with --image-root under which folder the pictures are")
    if not os.path.isdir(arguments.image_root):
        raise LlavaKitError(f"--image-root {arguments.image_root}: there is no such folder")
    return os.path.abspath(arguments.image_root)


def _workers(asked: int | None) -> int:
    from ..data.workers import usual_workers
    from ..errors import LlavaKitError

    if asked is None:
        return usual_workers()
    if asked < 1:
        raise LlavaKitError(f"--workers {asked}: expected at least 1")
    return asked


def _tell(done: Converted, arguments: argparse.Namespace) -> int:
    import json

    from ..convert.files import REJECTED
    from ..convert.forms import FORMS

    if arguments.json:
        told = {"folder": str(done.folder), **done.counts, "rejected": done.rejected, "rejected_by_reason": dict(done.bad)}
        print(json.dumps(told, ensure_ascii=False))
        return 3 if done.rejected else 0
    form = FORMS[arguments.to]
    where = done.folder / form.file if form.file else f"{done.folder} ({arguments.to})"
    print(", ".join([f"{_many(done.samples, 'sample')} in {where}", *_shown(done)]))
    if done.before:
        print(f"of these {done.before:,} were looked at by an earlier run of the same command")
    for name, count in sorted(done.counts.items()):
        if name.startswith("boxes "):
            print(f"{_many(count, 'sample')} {'has' if count == 1 else 'have'} {_BOXES[name]}")
    if not done.rejected:
        return 0
    print(f"{_many(done.rejected, 'sample')} rejected, told in {done.folder / REJECTED}", file=sys.stderr)
    for reason, count in sorted(done.bad.items(), key=lambda item: (-item[1], item[0])):
        print(f"  {count:>7,}  {reason}", file=sys.stderr)
    with open(done.folder / REJECTED, encoding="utf-8") as file:
        for _, line in zip(range(_SHOWN), file, strict=False):
            found = json.loads(line)
            print(f"{found['id']}: {found['reason']}: {found['message']}", file=sys.stderr)
    if done.rejected > _SHOWN:
        print(f"... and {done.rejected - _SHOWN:,} more", file=sys.stderr)
    return 3


def _shown(done: Converted) -> Iterator[str]:
    """What the samples show: of pictures in files how many there are, and how often they are shown if that is more."""
    places, clips = done.counts.get("pictures", 0), done.counts.get("clips", 0)
    files = done.counts.get("picture_files", places)
    if places:
        yield _many(files, "picture") + (f" (shown {places:,} times)" if places != files else "")
    if clips:
        yield _many(clips, "clip")


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


_BOXES = {
    "boxes beside the text": "boxes beside the text (shares of the picture's sides)",
    "boxes picture": "boxes in their text, in shares of the picture's sides",
    "boxes padded": "boxes in their text, in shares of the picture padded to a square",
}
