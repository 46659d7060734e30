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

    Raises:
        DataError: the folder has no file of rows, or its `dataset.json` is damaged.
    """
    if not os.path.isdir(path):
        return path, os.path.dirname(os.path.abspath(path))
    found = rows_file(path)
    if found is None:
        raise DataError(f"{path}: is a folder without {' or '.join(DATA_FILES)}; name the file with the conversations")
    return found, os.path.abspath(os.path.join(path, str(_manifest(path).get("image_root", "."))))


def _manifest(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, _MANIFEST)
    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); remove it, and say image_root where it is not the folder") from None
    return found if isinstance(found, dict) else {}
