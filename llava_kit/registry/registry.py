"""What the plugins offer, by kind and name, and what is wrong with those that could not be used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llava_kit.core.hookspecs import Options
from llava_kit.errors import PluginError, first_line, suggest

KINDS = ("encoder", "connector", "language_model", "template", "splicer", "loss", "source", "teacher", "benchmark", "command")
"""Every kind of thing a plugin can register; the hook of each is `hook_of(kind)`."""


class Plugin(NamedTuple):
    """A plugin by its entry point's name, and the distribution that installed it."""

    name: str
    distribution: str
    version: str
    module: str

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


class Entry(NamedTuple):
    """One thing that can be built.

    `unavailable()`, where given, says in one line why it cannot run on this machine; `measured()` by how much it was measured
    to be faster than the reference on this device; `describe()` is what `llava-kit env` prints about it.
    `recognise(path, head)` gives the options with which a source reads a file, or None.
    """

    kind: str
    name: str
    given_options: type[Options] | Callable[[], type[Options]] | None
    build: Callable[..., Any]
    summary: str
    plugin: Plugin
    unavailable: Callable[[], str | None] | None = None
    measured: Callable[[], str | None] | None = None
    describe: Callable[[], list[str]] | None = None
    recognise: Callable[[str, bytes], Mapping[str, Any] | None] | None = None

    @property
    def distribution(self) -> str:
        return self.plugin.distribution

    @property
    def version(self) -> str:
        return self.plugin.version

    @property
    def options(self) -> type[Options] | None:
        """The class of its options. Raises PluginError where a function should give it and does not."""
        given = self.given_options
        if given is None or isinstance(given, type):
            return given
        try:
            loaded = given()
        except Exception as error:
            raise PluginError(f"{self.plugin}: the options of {self.name!r} cannot be loaded ({first_line(error)})") from error
        if not (isinstance(loaded, type) and issubclass(loaded, Options)):
            raise PluginError(f"{self.plugin}: the options of {self.name!r} must be a subclass of Options, found {loaded!r}")
        return loaded

    def why_unavailable(self) -> str | None:
        """Why it cannot run on this machine, in one line; None if it can. A test that fails itself is a reason too."""
        if self.unavailable is None:
            return None
        try:
            return self.unavailable()
        except Exception as error:
            return f"its own test failed ({type(error).__name__}: {error})"

    def why_faster(self) -> str | None:
        """By how much it was measured to be faster here, in one line; None if nobody measured it, or it cannot run here."""
        if self.measured is None or self.why_unavailable() is not None:
            return None
        try:
            return self.measured()
        except Exception:  # `auto` must not fail over a table that cannot be read; `llava-kit env` tells what is wrong
            return None

    def description(self) -> list[str]:
        """What there is to tell about it on this machine, line by line."""
        if self.describe is None:
            return []
        try:
            return list(self.describe())
        except Exception as error:
            return [f"its own description failed ({type(error).__name__}: {error})"]


class Broken(NamedTuple):
    """A plugin that could not be used: why, in one line and in full, and what it had registered until then."""

    plugin: Plugin
    reason: str
    traceback: str
    offered: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return self.plugin.name

    @property
    def distribution(self) -> str:
        return self.plugin.distribution

    @property
    def version(self) -> str:
        return self.plugin.version

    def __str__(self) -> str:
        return f"{self.plugin}: {self.reason}"


class Conflict(NamedTuple):
    """A name of one kind that several plugins claim: nobody gets it until all but one are switched off."""

    kind: str
    name: str
    plugins: tuple[Plugin, ...]

    def __str__(self) -> str:
        owners = " and ".join(str(plugin) for plugin in self.plugins)
        return (
            f"{words(self.kind)} {self.name!r} is registered by {owners}; switch one off: "
            f"`llava-kit -p no:{_switch(self.plugins)} ...`, or uninstall it"
        )


@dataclass
class Registry:
    """Entries by kind and name. `plugins` are those that loaded, `broken` and `conflicts` say what did not, and why.

    `left_out` are the names of those that were not asked for.
    """

    plugins: list[Plugin] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    _entries: dict[tuple[str, str], Entry] = field(default_factory=dict)

    def add(self, entries: Iterable[Entry]) -> None:
        """Takes up a plugin's entries; a name that is taken becomes a conflict and belongs to nobody."""
        for entry in entries:
            key = (entry.kind, entry.name)
            claimed = next((c for c in self.conflicts if (c.kind, c.name) == key), None)
            if claimed is not None:
                self.conflicts.remove(claimed)
                self.conflicts.append(Conflict(*key, (*claimed.plugins, entry.plugin)))
            elif key in self._entries:
                self.conflicts.append(Conflict(*key, (self._entries.pop(key).plugin, entry.plugin)))
            else:
                self._entries[key] = entry

    def entries(self, kind: str | None = None) -> list[Entry]:
        """The entries of `kind` by name; without a kind all of them, kinds in the order of `KINDS`."""
        chosen = [entry for entry in self._entries.values() if kind in (None, entry.kind)]
        return sorted(chosen, key=lambda entry: (KINDS.index(entry.kind), entry.name))

    def get(self, kind: str, name: str) -> Entry:
        """The entry of that kind and name.

        Raises:
            PluginError: the name is unknown (the nearest is told), claimed by several plugins, or offered by a broken one.
        """
        if kind not in KINDS:
            raise PluginError(f"there is no kind of plugin {kind!r}; {suggest(kind, KINDS)}")
        entry = self._entries.get((kind, name))
        if entry is not None:
            return entry
        for conflict in self.conflicts:
            if (conflict.kind, conflict.name) == (kind, name):
                raise PluginError(str(conflict))
        for broken in self.broken:
            if (kind, name) in broken.offered or name == broken.name:
                raise PluginError(f"{words(kind)} {name!r} belongs to the broken plugin {broken}\n{broken.traceback.rstrip()}")
        names = [entry.name for entry in self.entries(kind)]
        known = suggest(name, names) if names else "none is installed"
        raise PluginError(f"there is no {words(kind)} {name!r}; {known}{self.missing_hint()}")

    def missing_hint(self) -> str:
        """The tail of an error about something missing: who may have been meant to provide it."""
        hint = ""
        if self.broken:
            listed = "; ".join(map(str, self.broken))
            hint += f" (a broken plugin may have provided it: {listed}; see `llava-kit plugins doctor`)"
        if self.left_out:
            hint += f" (plugins left out by LLAVA_KIT_PLUGINS or -p: {', '.join(self.left_out)})"
        return hint


def hook_of(kind: str) -> str:
    """The name of the hook by which a kind is registered: `register_encoders`, `register_losses`."""
    return f"register_{kind}{'es' if kind.endswith('s') else 's'}"


def words(kind: str) -> str:
    """A kind as one says it: `language_model` is a language model."""
    return kind.replace("_", " ")


def _switch(plugins: tuple[Plugin, ...]) -> str:
    """What switches off the newest claimant and nobody else: its name, or its distribution's where the names are equal."""
    last = plugins[-1]
    shared = any(plugin.name == last.name for plugin in plugins[:-1])
    return last.distribution if shared else last.name
