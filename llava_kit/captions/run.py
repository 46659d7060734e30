"""The filter as a whole: phrases are found, captions chosen, rows written, figures told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ..assemble.build import build_source
from ..assemble.files import write_json, write_text
from ..core.source import DataSource
from ..data.workers import cores
from ..errors import DataError
from ..recipe.filter_captions import FilterCaptions
from ..store.journal import Journal
from .choose import Choice, Postings, choose
from .find import Show, find_phrases
from .page import render_page
from .phrases import PhraseFinder, open_finder
from .spool import Spool
from .statistics import statistics_of
from .write import REJECTED, ROWS, RULE, UNFINISHED, disk_error, write_rows

JOURNAL, STATISTICS, PAGE, MANIFEST = "phrases.jsonl", "statistics.json", "report.html", "dataset.json"

Progress = Callable[[str, str], AbstractContextManager[Show]]
"""`(what, unit)` -> a function `(done, total)` while the work goes on, as `cli.progress.progress`."""


class Filtered(NamedTuple):
    """What stands in the folder, and the figures about it (as in `statistics.json`)."""

    folder: Path
    statistics: dict[str, Any]

    @property
    def rejected(self) -> int:
        return self.statistics["rejected"]


def _silent(what: str, unit: str) -> AbstractContextManager[Show]:
    return nullcontext(lambda done, total: None)


def filter_captions(
    options: FilterCaptions, source: DataSource | None = None, finder: PhraseFinder | None = None, progress: Progress = _silent
) -> Filtered:
    """Chooses captions of the source and writes them to the folder `options.to` as rows of LLaVA's JSON.

    `source` and `finder` stand in for those that the options name. The phrases are kept in the folder: a run that was stopped
    goes on, and with another `least`, `most`, `seed` or `pair` nothing is looked for again. The result is the same whatever the
    number of workers.

    Raises:
        DataError: nothing to choose from; or the folder holds something else.
        LlavaKitError: the finder, its library or its model is not there.
    """
    reader = build_source(options.source) if source is None else source
    count = min(len(reader), options.limit or len(reader))
    if not count:
        raise DataError("the source has no samples; expected pictures with captions")
    phraser = open_finder(options.finder) if finder is None else finder
    folder, workers = Path(options.to), options.workers or cores()
    _check(folder)
    about = {
        "source": reader.fingerprint(),
        "count": count,
        "finder": phraser.name,
        "max_letters": options.max_letters,
    }
    try:
        with Journal(folder / JOURNAL, about) as journal:
            told = _filter(reader, count, options, phraser, journal, workers, progress)
        _tell(folder, options, about, told)
    except OSError as error:
        raise disk_error(folder, error) from error
    return Filtered(folder, told)


def _filter(
    source: DataSource,
    count: int,
    options: FilterCaptions,
    finder: PhraseFinder,
    journal: Journal,
    workers: int,
    progress: Progress,
) -> dict[str, Any]:
    """Finds, chooses and writes; gives the figures."""
    with progress("find phrases", "samples") as show:
        find_phrases(source, count, finder, journal, max_letters=options.max_letters, workers=workers, show=show)
    spool = _spool(journal, count)
    choice = choose(spool.postings, least=options.least, most=options.most, seed=options.seed)
    if not len(choice.captions):
        raise DataError(_nothing(options, spool.postings, choice, finder.name))
    for name in (MANIFEST, ROWS):  # of an earlier rule: a run that is killed from here on leaves no mixture of the two
        Path(options.to, name).unlink(missing_ok=True)
    with progress("write captions", "captions") as show:
        written = write_rows(source, spool, choice, options, workers=workers, show=show)
    return statistics_of(options, finder.name, spool.postings, choice, written)


def _spool(journal: Journal, count: int) -> Spool:
    """What was found. Raises DataError where no sample has a caption."""
    spool = Spool(journal.path)
    if not len(spool.postings):
        raise DataError(
            f"none of the {count} samples has a caption to choose (the first: {spool.example}); expected a source whose "
            "samples have captions, or a single answer that is one"
        )
    return spool


def _nothing(options: FilterCaptions, postings: Postings, choice: Choice, finder: str) -> str:
    most = max(choice.before.frequencies, default=0)
    return (
        f"no phrase is in {options.least} captions or more, so nothing is chosen: {len(postings)} captions, "
        f"{choice.num_phrases} different phrases, the most frequent in {most} (finder: {finder}); give a lower `least`, or a "
        "finder for the language of the captions"
    )


def _check(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; expected a new folder")
    if folder.exists() and not (folder / JOURNAL).exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: is there already and not empty; expected a new folder, or one of an earlier filter")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {os.strerror(error.errno or 0)}") from error


def _tell(folder: Path, options: FilterCaptions, about: dict[str, Any], told: dict[str, Any]) -> None:
    """Statistics, page and description; the description last, since with it the data are finished."""
    write_json(folder / STATISTICS, told)
    write_text(folder / PAGE, render_page(folder.name, told))
    write_json(
        folder / MANIFEST,
        {
            "llava_kit_dataset": 1,
            "image_root": told["image_root"],
            "samples": told["rows_written"],
            "pictures": told["pictures_written"],
            "clips": 0,
            "rejected": told["rejected"],
            "rejected_by_reason": told["rejected_by_reason"],
            "samples_with_boxes": {},
            "made_from": {**about, "rule": RULE, **told["rule"], "block": options.source.model_dump()},
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    if not told["rejected"]:
        (folder / REJECTED).unlink(missing_ok=True)
