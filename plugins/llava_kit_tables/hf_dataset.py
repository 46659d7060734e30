"""A data set of Hugging Face on this machine as samples, its pictures as the bytes that it holds.

Rows are taken as Arrow, so that the library's own decoders, which open whatever a file is, never see a picture. Nothing is
fetched: the library is held offline while it opens a folder, and a folder's own card, which may name URLs, is not read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llava_kit.core.archives import check_name
from llava_kit.core.conversation import Sample
from llava_kit.core.source import DataSource
from llava_kit.errors import DataError, SampleError, first_line, suggest

from . import HfDatasetOptions
from .columns import choose_columns
from .library import need
from .rows import RowReader

# The library's own readers of files, by ending; scripts were among them once and never are here.
_BUILDERS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "csv",
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".webp"), "imagefolder"),
}


class HfDatasetSource(DataSource):
    """Samples by number from a data set that `datasets` opens; its rows stay on disk, mapped into memory."""

    def __init__(self, options: HfDatasetOptions):
        library = need("datasets", "a data set of Hugging Face")
        from .arrow_kinds import kinds_of

        self.options, self.path = options, options.path
        _check_folder(self.path)
        with _offline(library):
            data = _open(library, options)
        kinds = kinds_of(data.features.arrow_schema)
        self._names = {
            name: feature.names for name, feature in data.features.items() if isinstance(feature, library.ClassLabel)
        }
        kinds.update(dict.fromkeys(self._names, "text"))
        where = f"{self.path}" + (f" ({data.split})" if data.split else "")
        self.columns = choose_columns(kinds, options.fields, where)
        if not len(data):
            raise DataError(f"{where}: holds no rows; expected at least one")
        self._data = data.select_columns(self.columns.used()).with_format("arrow")
        self._fingerprint = _fingerprint(data)
        name = os.path.basename(os.path.abspath(self.path))
        self._reader = RowReader(options, self.path, name)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Sample:
        number = range(len(self))[index]
        try:
            row = self._data[number : number + 1].to_pylist()[0]
        except Exception as error:
            raise SampleError(
                "bad_row", f"{self.path}: row {number} cannot be read: {first_line(error)}", sample_id=f"row {number}"
            ) from None
        for column, names in self._names.items():
            value = row.get(column)
            if isinstance(value, int):
                row[column] = names[value] if 0 <= value < len(names) else None
        return self._reader.sample(row, self.columns, number)

    def fingerprint(self) -> str:
        return f"{self._fingerprint}:{self.options.picture_place}:{'|'.join(self.columns.used())}"


def _check_folder(path: str) -> None:
    check_name(path)
    if os.path.isdir(path):
        return
    if os.path.isfile(path):
        raise DataError(f"{path}: is a file; expected the folder of a data set (a single table is read by type: parquet)")
    if path.count("/") <= 1 and not path.startswith((".", "/", "~")) and path.strip():
        raise DataError(
            f"{path}: there is no such folder here, and nothing is fetched from the hub; download it first: `hf download "
            f"{path} --repo-type dataset --local-dir FOLDER`, and name FOLDER"
        )
    raise DataError(f"{path}: there is no such folder (relative to {os.getcwd()!r})")


def _open(library: Any, options: HfDatasetOptions) -> Any:
    """The one split that is meant, not yet decoded."""
    path, folder = options.path, options.path
    try:
        if options.builder is None and os.path.isfile(os.path.join(path, "dataset_dict.json")):
            folder = os.path.join(path, _choose_split(_saved_splits(path), options))
        if options.builder is None and os.path.isfile(os.path.join(folder, "state.json")):
            found = library.load_from_disk(folder)
            if options.split is not None and folder == path and str(found.split) != options.split:
                raise DataError(f"{path}: holds the split {str(found.split)!r} alone; found split={options.split!r}")
            return found
        splits = library.load_dataset(options.builder or _builder_of(path), data_dir=os.path.abspath(path))
        return splits[_choose_split(list(splits), options)]
    except DataError:
        raise
    except Exception as error:  # the library raises its own kinds, Arrow's, and those of every reader
        cause = error.__cause__ or error
        raise DataError(f"{path}: `datasets` cannot read it: {first_line(cause)[:400]}") from None


def _saved_splits(path: str) -> list[str]:
    try:
        with open(os.path.join(path, "dataset_dict.json"), "rb") as file:
            names = json.load(file)["splits"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: its dataset_dict.json cannot be read ({first_line(error)})") from None
    plain = [name for name in names if isinstance(name, str) and os.path.basename(name) == name and name not in ("", ".", "..")]
    if not plain or len(plain) != len(names):
        raise DataError(f"{path}: its dataset_dict.json names the splits {str(names)[:200]}; expected names of folders in it")
    return plain


def _choose_split(splits: list[str], options: HfDatasetOptions) -> str:
    if options.split in splits:
        return options.split
    if options.split is not None:
        raise DataError(f"{options.path}: has no split {options.split!r}; {suggest(options.split, splits)}")
    if len(splits) > 1:
        raise DataError(f"{options.path}: holds the splits {', '.join(splits)}; say which, as in split={splits[0]}")
    return splits[0]


def _builder_of(path: str) -> str:
    """By the endings of the files in the folder; tables go before pictures, which may lie beside them."""
    endings = {os.path.splitext(name)[1].lower() for _, _, names in os.walk(path) for name in names}
    found = list(dict.fromkeys(builder for ending, builder in _BUILDERS.items() if ending in endings))
    if "imagefolder" in found and len(found) > 1:  # its metadata.jsonl or .csv names the pictures
        listed = any("metadata." in name for _, _, names in os.walk(path) for name in names)
        found = ["imagefolder"] if listed else [name for name in found if name != "imagefolder"]
    if len(found) != 1:
        what = f"files for {', '.join(found)}" if found else f"files ending in {', '.join(sorted(endings)) or 'nothing'}"
        raise DataError(f"{path}: holds {what}; expected a folder of `save_to_disk`, or say builder=NAME (parquet, json, ...)")
    return found[0]


def _fingerprint(data: Any) -> str:
    """What the library made of the data's own files (a hash), with their number: it changes with the files and with `map`."""
    sizes = [os.path.getsize(one["filename"]) for one in data.cache_files]
    return f"{data._fingerprint}:{len(data)}:{sum(sizes)}"


@contextmanager
def _offline(library: Any) -> Iterator[None]:
    """Holds the library and the hub's client off the network, and their bars off the screen."""
    from huggingface_hub import constants

    switches = ((library.config, "HF_HUB_OFFLINE"), (library.config, "HF_DATASETS_OFFLINE"), (constants, "HF_HUB_OFFLINE"))
    before = [(owner, name, getattr(owner, name)) for owner, name in switches if hasattr(owner, name)]
    bars = library.utils.logging.is_progress_bar_enabled()
    for owner, name, _ in before:
        setattr(owner, name, True)
    library.disable_progress_bars()
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
        if bars:
            library.enable_progress_bars()
