"""LLaVA and LLaVA-NeXT folders of transformers, described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .foreign import Foreign, LoadOptions

MODEL_TYPES = ("llava", "llava_next")


def read(folder: Path, config: dict[str, Any], options: LoadOptions) -> Foreign:
    raise NotImplementedError
