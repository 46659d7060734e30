"""Public checks: a plugin's author calls them in her own tests, and ours must pass the same.

May import everything below it (`core`, `splice`), never a plugin. Each check raises `AssertionError` saying what broke.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Case": "plans",
    "battery": "plans",
    "check_splicer": "splicers",
    "check_connector": "contracts",
    "check_encoder": "contracts",
    "check_language_model": "contracts",
    "LossCase": "losses",
    "check_loss": "losses",
    "loss_cases": "losses",
    "check_template": "templates",
}

if TYPE_CHECKING:
    from .contracts import check_connector, check_encoder, check_language_model
    from .losses import LossCase, check_loss, loss_cases
    from .plans import Case, battery
    from .splicers import check_splicer
    from .templates import check_template

__all__ = [
    "Case",
    "LossCase",
    "battery",
    "check_connector",
    "check_encoder",
    "check_language_model",
    "check_loss",
    "check_splicer",
    "check_template",
    "loss_cases",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
