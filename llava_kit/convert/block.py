"""One block of samples read, looked at and handed to its sink; this is what a worker process does, again and again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..core.conversation import Clip, ClipFolder, ImageBytes, ImageFile, ImageRef, ImageUrl, Sample
from ..core.source import DataSource
from ..errors import DataError, SampleError, TrainingError
from ..image.reader import picture_size
from ..store.pictures import clip_files, picture_file
from ..store.row import shown_pictures
from .fetch import Fetcher
from .forms import FORMS
from .sinks import UNFINISHED, Shown, make_sink

# Addresses that are asked at the same time, in each process; a server that serves pictures stands as many from one reader.
_AT_ONCE = 8


class Rejected(NamedTuple):
    """A sample that was not written. `id` is its name, or its number where it has none."""

    index: int
    id: str
    reason: str
    message: str


class Block(NamedTuple):
    """What became of a block: the text that it adds to the form's file, who was rejected, and counts of what was written."""

    text: bytes
    rejected: list[Rejected]
    counts: dict[str, int]
    """`samples`, `pictures`, `clips`, `boxes <convention>`."""


@dataclass(frozen=True)
class Settings:
    """How samples are written. With `keep_root` pictures stay where they are, and are called by their path under it."""

    form: str = "llava"
    keep_root: str | None = None
    fetcher: Fetcher | None = field(default=None, repr=False)
    """Fetches pictures that are addresses; without it they are refused."""


@dataclass(frozen=True)
class BlockMaker:
    """`make(number)`: block `number` of the first `count` samples, written to `folder` but for the text that it gives back."""

    source: DataSource
    count: int
    folder: Path
    settings: Settings

    def __call__(self, number: int) -> Block:
        form = FORMS[self.settings.form]
        indices = range(number * form.block, min(self.count, (number + 1) * form.block))
        sink = make_sink(self.folder, self.settings.form, form.shard and form.shard.format(number))
        rejected: list[Rejected] = []
        counts: Counter[str] = Counter()
        for index, sample, shown in self._shown(indices):
            try:
                if isinstance(shown, SampleError):
                    raise shown
                with self._writing():
                    sink.add(index, sample, shown)
            except SampleError as error:
                name = error.sample_id or (sample.id if isinstance(sample, Sample) else f"number {index}")
                rejected.append(Rejected(index, name, error.reason, error.message))
                continue
            counts.update(_counts(sample, shown))
        with self._writing():
            return Block(sink.close(), rejected, dict(counts))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(self.folder, error) from error

    def _shown(self, indices: range) -> Iterator[tuple[int, Any, Any]]:
        """Index, sample and what it shows; a `SampleError` stands for what could not be had."""
        if self.settings.fetcher is None:
            for index in indices:
                sample = self._sample(index)
                yield index, sample, self._pictures(sample)
            return
        with ThreadPoolExecutor(_AT_ONCE) as threads:  # they wait for other machines; a source may not be shared by threads
            for start in range(0, len(indices), 2 * _AT_ONCE):
                part = indices[start : start + 2 * _AT_ONCE]
                samples = [self._sample(index) for index in part]
                yield from zip(part, samples, threads.map(self._pictures, samples), strict=True)

    def _sample(self, index: int) -> Sample | SampleError:
        try:
            return self.source[index]
        except SampleError as error:
            return error
        except OSError as error:
            name = error.filename or "the source"
            raise DataError(f"{name}: cannot be read: {os.strerror(error.errno or 0)}; the same command goes on") from error

    def _pictures(self, sample: Sample | SampleError) -> list[Shown] | SampleError:
        if isinstance(sample, SampleError):
            return sample
        try:
            slots = shown_pictures(sample)
            if sorted(slots) != list(range(len(sample.images))):
                raise SampleError("image_count", f"has {len(sample.images)} pictures and {len(slots)} places for them")
            return [self._one(sample.images[slot]) for slot in slots]
        except SampleError as error:
            return error

    def _one(self, ref: ImageRef) -> Shown:
        if isinstance(ref, ImageUrl) and self.settings.fetcher is not None:
            ref = ImageBytes(self.settings.fetcher.fetch(ref.url), ref.name)
        if self.settings.keep_root is not None:
            return kept_name(ref, self.settings.keep_root)
        return clip_files(ref) if isinstance(ref, Clip | ClipFolder) else picture_file(ref)


def kept_name(ref: ImageRef, root: str) -> str:
    """What a picture or folder of frames is called under `root`, its header looked at.

    Raises `SampleError`: `no_file` where it has none, `outside_root`, or as `picture_size` does.
    """
    if not isinstance(ref, ImageFile | ClipFolder):
        raise SampleError("no_file", f"picture {ref.name!r}: is in no file of its own, so it cannot be kept where it is")
    picture_size(ref)
    path = os.path.abspath(os.path.join(ref.root or "", ref.path))
    name = os.path.relpath(path, root)
    if name == os.pardir or name.startswith(os.pardir + os.sep):
        raise SampleError("outside_root", f"picture {ref.path!r}: lies outside of --image-root {root!r}")
    return name


def _counts(sample: Sample, shown: Sequence[Shown]) -> Counter[str]:
    clips = sum(isinstance(image, Clip | ClipFolder) for image in sample.images)
    counts = Counter(samples=1, pictures=len(shown) - clips, clips=clips)
    if sample.annotations.boxes:  # beside the conversation boxes are always shares of the picture itself
        counts["boxes beside the text"] = 1
    if sample.annotations.text_boxes is not None:
        counts[f"boxes {sample.annotations.text_boxes}"] = 1
    return +counts


class WriteError(TrainingError):
    """Work that had to stop because the disk refused it; what is written stays, and the same command goes on."""


def disk_error(folder: Path, error: OSError) -> WriteError:
    """What a user is told when a file under `folder` could not be written."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return WriteError(
        f"{folder}: cannot be written: {reason}; what is written so far is kept: make room, or mend it, and the same command "
        "goes on"
    )


def clear_unfinished(folder: Path) -> None:
    """Empties the place of unfinished files under `folder`, and makes it where it is not."""
    place = folder / UNFINISHED
    place.mkdir(exist_ok=True)
    for left in place.iterdir():
        left.unlink(missing_ok=True)
