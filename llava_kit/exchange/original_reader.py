"""Folders of the original repositories, described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .foreign import Foreign, LoadOptions


def is_original(folder: Path, config: dict[str, Any]) -> bool:
    return any(key.startswith("mm_") for key in config) or (folder / "mm_projector.bin").is_file()


def read(folder: Path, config: dict[str, Any], options: LoadOptions) -> Foreign:
    raise NotImplementedError
