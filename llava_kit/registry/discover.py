"""Which installed distributions name themselves under the entry-point group `llava_kit`.

Reads `*.dist-info/entry_points.txt` along `sys.path`, as `importlib.metadata` does; importing that module costs 20 ms of a
start-up budget of 200 (it loads the email parser), so it is used only where a path is not a plain folder.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Any, NamedTuple

GROUP = "llava_kit"


class Found(NamedTuple):
    """An entry point: its name, the module it points to, and the distribution that installed it."""

    name: str
    value: str
    distribution: str
    version: str

    def answers_to(self, name: str) -> bool:
        """Whether a user who writes `name` means this plugin: the entry point's name, or the distribution's."""
        return name == self.name or _normal(name) == _normal(self.distribution)

    def load(self) -> Any:
        """Imports the plugin: a module, or with `module:attribute` what the attribute holds."""
        module, _, attributes = self.value.partition(":")
        target: Any = importlib.import_module(module.strip())
        for attribute in filter(None, attributes.strip().split(".")):
            target = getattr(target, attribute)
        return target


def find_plugins() -> list[Found]:
    """All plugins installed, sorted by distribution and name. The first copy of a distribution on `sys.path` counts."""
    folders = list(dict.fromkeys(path or os.curdir for path in sys.path))
    if any(os.path.isfile(folder) for folder in folders):
        found = _by_importlib()
    else:
        found = _by_reading(folders)
    return sorted(found, key=lambda plugin: (_normal(plugin.distribution), plugin.name))


def _by_reading(folders: list[str]) -> list[Found]:
    found: list[Found] = []
    seen: set[str] = set()
    for folder in folders:
        try:
            entries = sorted(os.listdir(folder))
        except OSError:
            continue  # as Python itself: a path that is not there holds nothing
        for entry in entries:
            stem, suffix = os.path.splitext(entry)
            if suffix not in (".dist-info", ".egg-info"):
                continue
            distribution = _normal(stem.split("-")[0])
            if distribution in seen:
                continue
            seen.add(distribution)
            found += _read_distribution(os.path.join(folder, entry))
    return found


def _read_distribution(path: str) -> list[Found]:
    points = _entry_points(_read(os.path.join(path, "entry_points.txt")))
    if not points:
        return []
    metadata = _read(os.path.join(path, "METADATA")) or _read(os.path.join(path, "PKG-INFO"))
    stem = os.path.splitext(os.path.basename(path))[0]
    from_folder = stem.partition("-")
    name = _header(metadata, "Name") or from_folder[0]
    version = _header(metadata, "Version") or from_folder[2] or "unknown"
    return [Found(point, value, name, version) for point, value in points]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _entry_points(text: str) -> list[tuple[str, str]]:
    """The `name = value` lines of our group."""
    points = []
    inside = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            inside = line.strip("[] ") == GROUP
        elif inside and "=" in line and not line.startswith(("#", ";")):
            name, value = line.split("=", 1)
            points.append((name.strip(), value.split("[")[0].strip()))  # without extras, which name no code
    return points


def _header(metadata: str, key: str) -> str | None:
    found = re.search(rf"^{key}:[ \t]*(.+)$", metadata.partition("\n\n")[0], re.MULTILINE)
    return found[1].strip() if found else None


def _by_importlib() -> list[Found]:
    metadata = importlib.import_module("importlib.metadata")
    return [
        Found(point.name, point.value, point.dist.name if point.dist else "unknown", point.dist.version if point.dist else "")
        for point in metadata.entry_points(group=GROUP)
    ]


def _normal(name: str) -> str:
    """A distribution's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
