"""`llava-kit data filter-captions`: captions chosen by how often their noun phrases are said, and paired with instructions."""

from __future__ import annotations

import argparse
import sys

from .data_source import WORDS, WORDS_HELP, add_source

# Those of the rejected samples that are told on the terminal; all are in the folder.
_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar=f"[{WORDS}] DEST", help=f"{WORDS_HELP}; then a folder")
    add_source(parser)
    rule = parser.add_argument_group("how captions are chosen")
    rule.add_argument("--finder", metavar="NAME", help="textblob (default), or spacy:MODEL as in the paper")
    rule.add_argument("--least", type=int, metavar="N", help="skip phrases of fewer captions (3)")
    rule.add_argument("--most", type=int, metavar="N", help="take so many captions by chance of a phrase with more (100)")
    rule.add_argument("--max-letters", type=int, metavar="N", help="a longer caption is kept aside (4000)")
    rule.add_argument("--seed", type=int, metavar="N", help="of what is left to chance (0)")
    rows = parser.add_argument_group("what is written")
    rows.add_argument("--pair", choices=("brief", "detailed", "none"), help="the instruction beside a picture (brief)")
    rows.add_argument("--pictures", choices=("keep", "copy"), help="keep: rows name picture files where they are (keep)")
    rows.add_argument("--json", action="store_true", help="the figures for programs")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that find phrases; default: one for each core")


def run(arguments: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from ..captions.run import filter_captions
    from ..errors import LlavaKitError
    from ..recipe.filter_captions import FilterCaptions
    from .data_source import open_source
    from .progress import progress

    if not arguments.words:
        raise LlavaKitError("expected DEST, a folder to write to")
    *words, destination = arguments.words
    if not words and arguments.source is None:
        raise LlavaKitError(f"found {destination!r} alone; expected what to read and then DEST, a folder to write to")
    names = ("finder", "least", "most", "max_letters", "seed", "pair", "pictures", "workers", "limit")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    opened = open_source(arguments, words)
    try:
        options = FilterCaptions(source=opened.part, to=destination, **given)
    except ValidationError as error:
        raise LlavaKitError("\n".join(map(_told, error.errors()))) from None
    done = filter_captions(options, source=opened.source, progress=progress)
    if arguments.json:
        import json

        print(json.dumps({"folder": str(done.folder), **done.statistics}, ensure_ascii=False))
    else:
        _tell(done)
    return 3 if done.rejected else 0


def _told(problem) -> str:
    option = "".join(f"--{str(part).replace('_', '-')}: " for part in problem["loc"])
    return f"{option}{problem['msg'].removeprefix('Value error, ')}" + (f", found {problem['input']!r}" if option else "")


def _tell(done) -> None:
    import json

    from ..captions.run import PAGE
    from ..captions.statistics import figures
    from ..captions.write import REJECTED, ROWS
    from .table import print_table

    print_table(figures(done.statistics))
    top = done.statistics["top"][:10]
    print("\nmost frequent: " + ", ".join(f"{entry['phrase']} {entry['before']:,} -> {entry['after']:,}" for entry in top))
    print(f"\n{done.statistics['rows_written']:,} rows in {done.folder / ROWS}; the plot is in {done.folder / PAGE}")
    if not done.rejected:
        return
    print(f"{done.rejected:,} samples rejected, all in {done.folder / REJECTED}", file=sys.stderr)
    for reason, count in sorted(done.statistics["rejected_by_reason"].items(), key=lambda item: (-item[1], item[0])):
        print(f"  {count:>7,}  {reason}", file=sys.stderr)
    with open(done.folder / REJECTED, encoding="utf-8") as file:
        for _, line in zip(range(_SHOWN), file, strict=False):
            told = json.loads(line)
            print(f"{told['id']}: {told['reason']}: {told['message']}", file=sys.stderr)
