"""A folder of rows and pictures, as `data convert` writes it: which of its files has the rows, and where the pictures are."""

from __future__ import annotations

import json
import os
from typing import Any

from llava_kit.errors import DataError

# The names that `data convert` writes, and that others use for the same.
DATA_FILES = ("data.json", "data.jsonl")
_MANIFEST = "dataset.json"


def rows_file(folder: str) -> str | None:
    """The file of rows in `folder`, or None where it has none."""
    return next((path for name in DATA_FILES if os.path.isfile(path := os.path.join(folder, name))), None)


def locate(path: str) -> tuple[str, str]:
    """The file of rows, and the folder under which its pictures are, of a file or of a folder with rows.

    Where `dataset.json` stands beside rows of ours it says where the pictures are, seen from its folder.

    Raises:
        DataError: the folder has no file of rows, or its `dataset.json` is damaged.
    """
    if os.path.isdir(path):
        folder, found = path, rows_file(path)
        if found is None:
            raise DataError(f"{path}: is a folder without {' or '.join(DATA_FILES)}; name the file with the conversations")
    else:
        folder, found = os.path.dirname(path), path
    ours = os.path.basename(found) in DATA_FILES
    return found, os.path.abspath(os.path.join(folder, str(_manifest(folder).get("image_root", ".")) if ours else "."))


def _manifest(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, _MANIFEST)
    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); remove it, and say image_root where it is not the folder") from None
    # Others have files of this name too (OCR-VQA's questions).
    return found if isinstance(found, dict) and "llava_kit_dataset" in found else {}
