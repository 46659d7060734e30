"""Tables and archives with pictures in them: Parquet, data sets of Hugging Face, WebDataset."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from llava_kit import Options, hookimpl

Place = Literal["first", "as_written"]
_PLACE = "first: a turn's only picture goes before its text, as LLaVA trains; as_written: it stays"
_ROOT = "pictures that are named and not enclosed are read from under this folder; default: that of the data"


class Fields(Options):
    """What the columns are called, where a table does not keep to the usual names. All else is found by name and type."""

    id: str | None = None
    image: str | list[str] | None = Field(default=None, description="the column of the picture or pictures, or several columns")
    turns: str | None = Field(default=None, description="a list of from/value, role/content or user/assistant")
    question: str | None = None
    answer: str | None = Field(default=None, description="a text, or a list of which the most frequent is taken")
    caption: str | None = None
    caption_at: str | None = Field(
        default=None, description="where in the caption's JSON it stands; gt_parse.text_sequence in SynthDoG's `ground_truth`"
    )
    source: str | None = Field(default=None, description="the column that names the data set a row is from")


class _TableOptions(Options):
    """What every table is asked."""

    image_root: str | None = Field(default=None, description=_ROOT)
    fields: Fields = Field(default_factory=Fields)
    instruction: str = Field("Describe the picture.", description="what a row that has only a caption is asked")
    picture_place: Place = Field("first", description=_PLACE)
    name: str | None = Field(
        default=None, description="the tag `source` of rows that do not say it; default: by the file's name"
    )


class ParquetOptions(_TableOptions):
    """Rows of Parquet files, with their pictures enclosed or in files."""

    path: str | list[str] = Field(description="a file, a folder, a pattern such as data/train-*.parquet, or a list of these")
    split: str | None = Field(default=None, description="only the files whose names begin so (train, test, ...)")
    cache_megabytes: PositiveInt = Field(64, description="of decoded rows that are kept for the next ones")


class HfDatasetOptions(_TableOptions):
    """A data set of Hugging Face on this machine: a folder of `save_to_disk`, or of files that `datasets` reads."""

    path: str = Field(description="the folder; nothing is downloaded")
    split: str | None = Field(default=None, description="train, test, ...; needed where there are several")
    builder: str | None = Field(
        default=None, description="parquet, arrow, json, csv, imagefolder, ...; default: by the files' endings"
    )


class WebdatasetOptions(_TableOptions):
    """Samples in tar or zip files: members with the same name belong together (0001.jpg, 0001.json, 0001.txt)."""

    path: str | list[str] = Field(description="a file, a folder, shard-{000..010}.tar, a pattern, or a list of these")
    split: str | None = Field(default=None, description="only the files whose names begin so (train, test, ...)")


def build_parquet(options: ParquetOptions):
    """Return a `ParquetSource`; the files' ends are read now, rows when they are asked for."""
    from .parquet import ParquetSource

    return ParquetSource(options)


def build_hf_dataset(options: HfDatasetOptions):
    """Return an `HfDatasetSource`; the data stay on disk, mapped into memory."""
    from .hf_dataset import HfDatasetSource

    return HfDatasetSource(options)


def build_webdataset(options: WebdatasetOptions):
    """Return a `WebdatasetSource`; all headers are read now, members when they are asked for."""
    from .webdataset import WebdatasetSource

    return WebdatasetSource(options)


def recognise_parquet(path: str, head: bytes):
    """A file that begins as Parquet files do, or a folder with such endings in it (one level down too, as on the hub)."""
    if _is_pattern(path):
        return {"path": path} if path.endswith(".parquet") else None
    if head.startswith(b"PAR1") or (not head and not _is_saved(path) and _holds(path, (".parquet",))):
        return {"path": path}
    return None


def recognise_hf_dataset(path: str, head: bytes):
    """A folder of `save_to_disk`."""
    return {"path": path} if not head and _is_saved(path) else None


def recognise_webdataset(path: str, head: bytes):
    """A tar or zip file, or a folder of tars (zips lie about in many folders)."""
    tars = (".tar", ".tar.gz", ".tgz")
    if _is_pattern(path):
        return {"path": path} if path.endswith((*tars, ".zip")) else None
    if head:
        packed = (head.startswith(b"\x1f\x8b") and path.endswith(tars)) or (
            head.startswith(b"PK\3\4") and path.endswith(".zip")
        )
        return {"path": path} if packed or head[257:262] == b"ustar" else None
    return {"path": path} if not _is_saved(path) and _holds(path, tars) else None


def _is_pattern(path: str) -> bool:
    """Whether several files are meant (`shard-{000..010}.tar`, `train-*.parquet`): there is none of this name."""
    import os

    return not os.path.exists(path)


def _is_saved(path: str) -> bool:
    import os

    return any(os.path.isfile(os.path.join(path, name)) for name in ("dataset_dict.json", "state.json"))


def _holds(path: str, endings: tuple[str, ...]) -> bool:
    import os

    try:
        entries = list(os.scandir(path))
        folders = [entry.path for entry in entries if entry.is_dir()][:20]
        names = [entry.name for entry in entries] + [name for folder in folders for name in os.listdir(folder)]
    except OSError:
        return False
    return any(name.endswith(endings) for name in names)


@hookimpl
def register_sources(register):
    register("parquet", options=ParquetOptions, build=build_parquet, recognise=recognise_parquet)
    register("hf_dataset", options=HfDatasetOptions, build=build_hf_dataset, recognise=recognise_hf_dataset)
    register("webdataset", options=WebdatasetOptions, build=build_webdataset, recognise=recognise_webdataset)
