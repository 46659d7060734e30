"""Finds the plugins, asks each by its hooks what it offers, and fills the registry; one plugin's fault stays its own."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

from pluggy import PluginManager

from llava_kit.core import hookspecs
from llava_kit.core.hookspecs import Options
from llava_kit.errors import PluginError, suggest

from .discover import Found, find_plugins
from .registry import KINDS, Broken, Entry, Plugin, Registry, hook_of

ONLY = "LLAVA_KIT_PLUGINS"
"""Environment: only these plugins are loaded (a comma list; empty means none)."""

BLOCKED = "LLAVA_KIT_NO_PLUGINS"
"""Environment: these plugins are not loaded (a comma list). `llava-kit -p no:NAME` sets it, so worker processes obey too."""

MAX_REASON = 400
"""Letters of a broken plugin's one-line reason; pluggy's longest message for one wrong argument has some 250."""

HOOKS = tuple(map(hook_of, KINDS))


def default_registry() -> Registry:
    """The registry of this process, limited by `LLAVA_KIT_PLUGINS` and `LLAVA_KIT_NO_PLUGINS`.

    It is loaded once, and again only if one of the two, or where Python looks for packages, has changed.

    Raises:
        PluginError: one of the two names a plugin that is not installed.
    """
    return _cached_registry(os.environ.get(ONLY), os.environ.get(BLOCKED, ""), tuple(sys.path))


@lru_cache(maxsize=4)
def _cached_registry(only: str | None, blocked: str, path: tuple[str, ...]) -> Registry:
    return load_plugins(None if only is None else _comma_list(only), set(_comma_list(blocked)))


def _comma_list(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def load_plugins(only: list[str] | None = None, blocked: Collection[str] = ()) -> Registry:
    """Loads the installed plugins into a new registry: all, or those named by `only`, without those named by `blocked`.

    A name is an entry point's, or a distribution's for all of its plugins. A plugin that fails is kept in `broken`.

    Raises:
        PluginError: `only` or `blocked` names a plugin that is not installed.
    """
    found = find_plugins()
    _refuse_unknown(only or (), ONLY, found)
    _refuse_unknown(blocked, f"-p no: or {BLOCKED}", found)
    registry = Registry()
    for candidate in found:
        wanted = only is None or any(candidate.answers_to(name) for name in only)
        if wanted and not any(candidate.answers_to(name) for name in blocked):
            _load_one(candidate, registry)
        else:
            registry.left_out.append(candidate.name)
    return registry


def _refuse_unknown(names: Iterable[str], where: str, found: list[Found]) -> None:
    for name in names:
        if not any(candidate.answers_to(name) for candidate in found):
            raise PluginError(f"{where} names the plugin {name!r}, which is not installed; {suggest(name, _names(found))}")


def _names(found: list[Found]) -> set[str]:
    return {candidate.name for candidate in found}


def _load_one(candidate: Found, registry: Registry) -> None:
    plugin = Plugin(candidate.name, candidate.distribution, candidate.version, candidate.value)
    entries: dict[tuple[str, str], Entry] = {}
    try:
        _ask(candidate.load(), plugin, entries)
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises concerns that plugin alone
        reason = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())[:MAX_REASON]
        if not isinstance(error, PluginError):
            reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        registry.broken.append(Broken(plugin, reason, _traceback(error), tuple(entries)))
        return
    registry.plugins.append(plugin)
    registry.add(entries.values())


def _ask(module: Any, plugin: Plugin, entries: dict[tuple[str, str], Entry]) -> None:
    """Calls the plugin's hooks. Each plugin has a pluggy manager to itself, so no plugin can disturb another's hooks."""
    manager = PluginManager("llava_kit")
    manager.add_hookspecs(hookspecs)
    manager.register(module, plugin.name)
    _refuse_unknown_hooks(manager)
    for kind, hook in zip(KINDS, HOOKS):
        getattr(manager.hook, hook)(register=_register_function(kind, plugin, entries))


def _refuse_unknown_hooks(manager: PluginManager) -> None:
    try:
        manager.check_pending()
    except Exception as error:
        unknown = [name for name in vars(manager.hook) if not name.startswith("_") and name not in HOOKS]
        raise PluginError(f"{error}; {'; '.join(suggest(name, HOOKS) for name in unknown)}") from error


def _register_function(kind: str, plugin: Plugin, entries: dict[tuple[str, str], Entry]) -> Callable[..., None]:
    """The function that a plugin's hook is handed."""

    def register(
        name: str,
        *,
        options: type[Options] | Callable[[], type[Options]] | None = None,
        build: Callable[..., Any],
        summary: str | None = None,
        unavailable: Callable[[], str | None] | None = None,
        measured: Callable[[], str | None] | None = None,
        describe: Callable[[], list[str]] | None = None,
        recognise: Callable[[str, bytes], Mapping[str, Any] | None] | None = None,
    ) -> None:
        call = f"register({name!r})"
        if not isinstance(name, str) or not name or name != "".join(name.split()):
            raise PluginError(f"{call}: the name of a {kind} must be a text without spaces")
        lazy = callable(options) and not isinstance(options, type)
        if options is not None and not lazy and not (isinstance(options, type) and issubclass(options, Options)):
            raise PluginError(f"{call}: options must be a subclass of llava_kit.Options, found {options!r}")
        if lazy and not summary:
            raise PluginError(f"{call}: options that a function loads say nothing when plugins are listed; give a summary")
        functions = {
            "build": build,
            "unavailable": unavailable,
            "measured": measured,
            "describe": describe,
            "recognise": recognise,
        }
        for argument, value in functions.items():
            if not callable(value) and (argument == "build" or value is not None):
                raise PluginError(f"{call}: {argument} must be a function, found {value!r}")
        if (kind, name) in entries:
            raise PluginError(f"{call}: this plugin registers the {kind} {name!r} twice")
        line = summary or ("" if lazy else _first_line(options)) or _first_line(build)
        entries[kind, name] = Entry(kind, name, options, build, line, plugin, unavailable, measured, describe, recognise)

    return register


REACHING = ("pluggy", "importlib", "_frozen_importlib", "_frozen_importlib_external")
"""Whose frames lie between ours and a plugin's."""


def _first_line(documented: Any) -> str:
    """The first line of a docstring, its own one: a class must not be introduced by the sentence of its base."""
    text = documented.__dict__.get("__doc__") if isinstance(documented, type) else getattr(documented, "__doc__", None)
    return inspect.cleandoc(text).partition("\n")[0] if text else ""


def _traceback(error: BaseException) -> str:
    """The trace from the plugin's first frame on: how it was reached tells its author nothing."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in ("llava_kit", *REACHING):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def plugins_in_use(parts: Iterable[tuple[str, Any]], registry: Registry | None = None) -> list[dict[str, str]]:
    """The plugins behind `parts` (pairs of a kind and a recipe's block), each once, as `{name, distribution, version}`.

    Raises:
        PluginError: a part's `type` is unknown.
    """
    known = default_registry() if registry is None else registry
    plugins = {known.get(kind, part.type).plugin for kind, part in parts}
    return [
        {"name": plugin.name, "distribution": plugin.distribution, "version": plugin.version}
        for plugin in sorted(plugins, key=lambda plugin: (plugin.distribution, plugin.name))
    ]
