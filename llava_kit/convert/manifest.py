"""`dataset.json`: what a folder of converted data is, from what, how many, and what was left out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..assemble.files import write_json
from ..errors import DataError

MANIFEST = "dataset.json"
VERSION = 1
_COUNTS = ("samples", "pictures", "clips")
_FILES = "picture_files"
_BOXES = "boxes "


def write_manifest(folder: Path, about: Mapping[str, Any], counts: Mapping[str, int], bad: Mapping[str, int]) -> None:
    """Writes the manifest; it appears when it is whole, and with it the data are finished.

    `about` says from what and how (source block, fingerprint, form, ...), so the same command is known again.
    """
    write_json(
        folder / MANIFEST,
        {
            "llava_kit_dataset": VERSION,
            "image_root": os.path.relpath(about["image_root"], folder) if about["image_root"] else ".",
            **{name: counts.get(name, 0) for name in _COUNTS},
            **{name: counts[name] for name in (_FILES,) if name in counts},
            "rejected": sum(bad.values()),
            "rejected_by_reason": dict(sorted(bad.items())),
            "samples_with_boxes": {
                name.removeprefix(_BOXES): count for name, count in sorted(counts.items()) if name.startswith(_BOXES)
            },
            "made_from": dict(about),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def counts_of(manifest: Mapping[str, Any]) -> dict[str, int]:
    """The counts with which a manifest was written."""
    boxes = {f"{_BOXES}{name}": count for name, count in manifest["samples_with_boxes"].items()}
    return {**{name: manifest[name] for name in (*_COUNTS, _FILES) if manifest.get(name)}, **boxes}


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The manifest of a folder, or None where it has none.

    Raises:
        DataError: it is damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["llava_kit_dataset"] != VERSION:
            raise DataError(f"{path}: is of version {found['llava_kit_dataset']!r}; this llava-kit reads {VERSION}")
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is no description of a data set by llava-kit ({type(error).__name__})") from None
