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


def locate(path: str, image_root: str | None = None) -> tuple[str, str]:
    """The file of rows, and the folder under which its pictures are (`image_root` if given), of a file or folder of rows.

    Where `dataset.json` stands beside rows of ours it says where the pictures are, seen from its folder. It is believed as far
    as the folder above: a stranger's data must not choose what is read on this machine.

    Raises:
        DataError: the folder has no file of rows, or its `dataset.json` is damaged, or it leads farther away.
    """
    if os.path.isdir(path):
        folder, found = path, rows_file(path)
        if found is None:
            raise DataError(f"{path}: is a folder without {' or '.join(DATA_FILES)}; name the file with the conversations")
    else:
        folder, found = os.path.dirname(path), path
    if image_root is not None or os.path.basename(found) not in DATA_FILES:
        return found, image_root or os.path.abspath(folder)
    said = str(_manifest(folder).get("image_root", "."))
    root = os.path.abspath(os.path.join(folder, said))
    above = os.path.realpath(os.path.join(folder, os.pardir))
    if os.path.commonpath((above, os.path.realpath(root))) != above:
        raise DataError(
            f"{os.path.join(folder, _MANIFEST)}: says that the pictures are under {said!r}, away from this folder and its "
            f"neighbours; if that is meant, say image_root={root}"
        )
    return found, root


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
