"""`llava-kit data convert`: any data source as LLaVA's own JSON with picture files."""

from __future__ import annotations

import argparse
import sys

from .data_source import WORDS, WORDS_HELP, add_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar=f"[{WORDS}] DEST", help=f"{WORDS_HELP}; then a new folder")
    add_source(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..convert.export import export_samples
    from ..errors import LlavaKitError
    from .data_source import open_source
    from .progress import progress

    if not arguments.words:
        raise LlavaKitError("expected DEST, a folder to write to")
    *words, destination = arguments.words
    opened = open_source(arguments, words)
    with progress("convert", "samples") as show:
        written, bad = export_samples(opened.source, opened.count, destination, show)
    print(f"{written} samples in {destination}/data.json")
    for sample in bad:
        print(f"{sample.id}: {sample.reason}: {sample.message}", file=sys.stderr)
    return 3 if bad else 0
