"""Rooms that are named after what they do can be called: `llava_kit.train(recipe)` and `llava_kit.train.loop` both work.

The import system binds an imported room to its parent under the room's name, so a function of that name in `llava_kit` would
vanish as soon as anybody imports the room. A module that can be called has no such moment.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType


def make_callable(room: str, home: str) -> None:
    """Let the module `room` be called; the call goes to the function of the room's own name in its submodule `home`."""
    verb = room.rpartition(".")[2]

    class Room(ModuleType):
        def __call__(self, *args, **kwargs):
            return getattr(importlib.import_module(f"{room}.{home}"), verb)(*args, **kwargs)

    sys.modules[room].__class__ = Room
