"""`llava-kit data check`: what is wrong with a source's samples."""

from __future__ import annotations

import argparse
import sys

from .data_source import WORDS, WORDS_HELP, add_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar=WORDS, help=WORDS_HELP)
    parser.add_argument("--json", action="store_true", help="for programs")
    add_source(parser)


def run(arguments: argparse.Namespace) -> int:
    import json
    from collections import Counter

    from ..convert.export import check_samples
    from .data_source import open_source
    from .progress import progress

    opened = open_source(arguments, arguments.words)
    with progress("check", "samples") as show:
        bad = check_samples(opened.source, opened.count, show)
    if arguments.json:
        counts = Counter(sample.reason for sample in bad)
        told = {"samples": opened.count, "counts": counts, "bad": [sample._asdict() for sample in bad]}
        print(json.dumps(told, ensure_ascii=False))
        return 3 if bad else 0
    print(f"{opened.count} samples, {len(bad)} of them cannot be used")
    for sample in bad:
        print(f"{sample.id}: {sample.reason}: {sample.message}", file=sys.stderr)
    return 3 if bad else 0
