"""The forms that data can be written in: what each is called, which files it has, how many samples make a block."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import LlavaKitError, suggest


class Form(NamedTuple):
    """A form of data on disk.

    `file` holds the rows; forms without one have a file for each block (`shard`), with pictures and all. A block is what is
    made at once, by one process, and what is made again after a kill.
    """

    told: str
    file: str | None
    shard: str | None
    block: int

    @property
    def has_folder(self) -> bool:
        """Whether pictures are files of their own in a folder."""
        return self.shard is None


# Rows with pictures of their own: 64 are some 10 MB of photographs and a fraction of a second. Shards of 1,000 samples are some
# 150 MB, as people cut them; the last may be smaller.
FORMS = {
    "llava": Form("data.json, an array of LLaVA's rows, and picture files", "data.json", None, 64),
    "jsonl": Form("data.jsonl, one of LLaVA's rows a line, and picture files", "data.jsonl", None, 64),
    "messages": Form("data.jsonl, OpenAI-style `messages`, and picture files", "data.jsonl", None, 64),
    "parquet": Form("data-00000.parquet, ...: rows with the bytes of their pictures", None, "data-{:05}.parquet", 1000),
    "webdataset": Form("data-00000.tar, ...: a JSON file and picture files for each sample", None, "data-{:05}.tar", 1000),
}


def form_of(name: str) -> Form:
    """The form of that name. Raises `LlavaKitError` with the nearest one."""
    if name not in FORMS:
        raise LlavaKitError(f"--to {name}: there is no such form; {suggest(name, FORMS)}")
    return FORMS[name]
