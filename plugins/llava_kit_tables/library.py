"""The libraries that these sources need, imported when they are needed; a missing one is told in one line."""

from __future__ import annotations

import importlib
from typing import Any

from llava_kit.errors import PluginError


def need(module: str, what: str) -> Any:
    """The imported module. Raises `PluginError` saying how to install it, where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise PluginError(
            f"{what} needs the package {package!r}, which cannot be imported ({error}); install it with "
            "`pip install 'llava-kit[data]'`"
        ) from None
