"""A source written to a folder, block by block: streamed, by several processes, and gone on with after whatever ended it.

Blocks are made in any order and committed in theirs: the text is added to the form's file, then the journal gets a line. After
a kill the files are cut back to the last line of the journal, so nothing is there twice and nothing is lost; pictures and
shards that were written ahead are written over by the same bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from ..core.source import DataSource
from ..data.workers import make_ahead
from ..errors import DataError, LlavaKitError, TrainingError
from ..store.journal import Journal, differences
from ..store.pictures import PictureStore
from .block import Block, BlockMaker, Settings, WriteError, clear_unfinished, disk_error
from .files import Files
from .forms import FORMS, form_of
from .manifest import counts_of, read_manifest, write_manifest
from .sinks import UNFINISHED

JOURNAL = "convert.journal"

USUAL = Settings()

Show = Callable[[int, int], None]


class Converted(NamedTuple):
    """What stands in the folder. `before`: samples that an earlier run of the same command had done.

    `counts` are of `samples`, the `pictures` and `clips` that they show (one shown twice counts twice), `boxes <convention>`,
    and, in forms that write pictures to files, `picture_files`: each different picture once.
    """

    folder: Path
    counts: Mapping[str, int]
    bad: Mapping[str, int]
    before: int

    @property
    def samples(self) -> int:
        return self.counts.get("samples", 0)

    @property
    def rejected(self) -> int:
        return sum(self.bad.values())


def convert(
    source: DataSource,
    count: int,
    destination: str | os.PathLike[str],
    settings: Settings = USUAL,
    *,
    described: Mapping[str, Any] | None = None,
    workers: int = 1,
    show: Show = lambda done, total: None,
) -> Converted:
    """Writes the first `count` samples to the folder `destination`, in the form that `settings` name, with `dataset.json`.

    `described` is the source's block, for `dataset.json`. Samples that cannot be written are kept aside in `rejected.jsonl`,
    each with its reason. The result does not depend on `workers`, nor on how often the work was ended and begun again.

    Raises:
        DataError: there is something else in `destination`, or it lies within the data that are read; nothing was touched.
        TrainingError: the disk refused, or a worker was killed; the same call goes on.
    """
    folder = Path(destination)
    about = _about(source, count, settings, described)
    _check(folder, settings, described or {})
    done = _finished(folder, about)
    if done is not None:
        return done
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {os.strerror(error.errno or 0)}; name another folder") from error
    try:
        with Journal(folder / JOURNAL, about) as journal:
            return _go_on(folder, journal, about, BlockMaker(source, count, folder, settings), workers, show)
    except OSError as error:
        raise disk_error(folder, error) from error


def _go_on(folder: Path, journal: Journal, about: Mapping[str, Any], make: BlockMaker, workers: int, show: Show) -> Converted:
    form = FORMS[make.settings.form]
    clear_unfinished(folder)
    blocks = -(-make.count // form.block)
    with Files(folder, make.settings.form, journal) as files:
        begun = files.blocks
        show(min(make.count, begun * form.block), make.count)
        for number, block in enumerate(_made(make, begun, blocks, workers, folder), begun):
            files.add(number, block)
            show(min(make.count, (number + 1) * form.block), make.count)
        files.finish()
        counts, bad = dict(files.counts), dict(files.bad)
    if form.has_folder and make.settings.keep_root is None:
        counts["picture_files"] = PictureStore(folder, folder / UNFINISHED).count()
    write_manifest(folder, about, counts, bad)
    # From here on the manifest speaks for the folder.
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    journal.path.unlink(missing_ok=True)
    return Converted(folder, counts, bad, min(make.count, begun * form.block))


def _made(make: BlockMaker, start: int, stop: int, workers: int, folder: Path) -> Iterable[Block]:
    if min(workers, stop - start) <= 1:
        return map(make, range(start, stop))
    return _made_by_workers(make, start, stop, workers, folder)


def _made_by_workers(make: BlockMaker, start: int, stop: int, workers: int, folder: Path) -> Iterable[Block]:
    try:
        yield from make_ahead(make, start, stop, workers)
    except WriteError:
        raise
    except TrainingError as error:  # its words are about training
        ended = str(error).partition(";")[0]
        raise TrainingError(
            f"{folder}: {ended}; what is written so far is kept, and the same command goes on (--workers 1 takes least memory)"
        ) from error


def _about(source: DataSource, count: int, settings: Settings, described: Mapping[str, Any] | None) -> dict[str, Any]:
    form_of(settings.form)
    return {
        "source": dict(described or {}),
        "fingerprint": source.fingerprint(),
        "count": count,
        "form": settings.form,
        "image_root": settings.keep_root,
        "allow_urls": settings.fetcher is not None,
        "version": __version__,
    }


def _check(folder: Path, settings: Settings, described: Mapping[str, Any]) -> None:
    """What is wrong with the call, before anything is touched."""
    form = FORMS[settings.form]
    if settings.form == "parquet":
        from .parquet_shard import need_pyarrow

        need_pyarrow()
    if settings.keep_root is not None and not form.has_folder:
        raise LlavaKitError(
            f"--pictures keep: {settings.form} holds the pictures themselves; use --to llava, jsonl or messages"
        )
    for read in paths_of(described):
        if os.path.isdir(read) and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(read)):
            raise DataError(f"{folder}: lies within {read}, which is read; name a folder beside it")


def paths_of(block: Any) -> list[str]:
    """The paths that a source's block names, of a mixture those of all its sources."""
    if not isinstance(block, Mapping):
        return []
    found = [block["path"]] if isinstance(block.get("path"), str) else []
    return found + [path for value in block.values() for path in paths_of(value)]


def _finished(folder: Path, about: Mapping[str, Any]) -> Converted | None:
    """What stands there, if the same command has finished before.

    Raises:
        DataError: the folder holds something else.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; expected a new folder")
    found = read_manifest(folder)
    if found is not None:
        changed = differences(found.get("made_from"), about)
        if changed:
            raise DataError(f"{folder}: holds other data ({changed}); name another folder, or remove it")
        counts = counts_of(found)
        return Converted(folder, counts, found["rejected_by_reason"], about["count"])
    if not (folder / JOURNAL).exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: is there already and not empty; expected a new folder, or one of the same command")
    return None
