"""`llava-kit plugins list|show|doctor`: what is installed, what it takes, and what is wrong with it."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..registry.registry import Entry, Registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|doctor")
    listed = actions.add_parser("list", help="everything that plugins offer")
    listed.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="names like this, for example 'shapes*'")
    listed.add_argument("--kind", metavar="KIND", help="this kind alone: encoder, connector, ...")
    shown = actions.add_parser("show", help="the options of one part, or what one plugin offers")
    shown.add_argument("name", metavar="NAME", help="as in a recipe's `type`, or a plugin's name")
    doctor = actions.add_parser("doctor", help="what is broken, in conflict or cannot run here; exit code 2 for the first two")
    for action in (listed, shown, doctor):
        action.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    from ..registry.manager import default_registry

    registry = default_registry()
    if arguments.action == "list":
        return _list(registry, arguments)
    if arguments.action == "show":
        return _show(registry, arguments)
    return _doctor(registry, arguments)


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2))


def _list(registry: Registry, arguments: argparse.Namespace) -> int:
    from ..errors import PluginError, suggest
    from ..registry.registry import KINDS
    from .table import print_table

    if arguments.kind is not None and arguments.kind not in KINDS:
        raise PluginError(f"there is no kind {arguments.kind!r}; {suggest(arguments.kind, KINDS)}")
    entries = [entry for entry in registry.entries(arguments.kind) if fnmatch.fnmatchcase(entry.name, arguments.pattern)]
    if arguments.json:
        _print_json({"entries": [_as_json(entry) for entry in entries], **_faults(registry)})
        return 0
    rows = [(entry.kind, entry.name, str(entry.plugin), entry.summary) for entry in entries]
    print_table([("KIND", "NAME", "PLUGIN", "SUMMARY"), *rows])
    # On the other stream: a table that is piped on stays a table.
    for fault in [*map(str, registry.broken), *map(str, registry.conflicts)]:
        print(f"broken: {fault}", file=sys.stderr)
    if registry.broken:
        print("`llava-kit plugins doctor` shows the traces; `llava-kit -p no:NAME ...` leaves a plugin out", file=sys.stderr)
    return 0


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "summary": entry.summary,
        "plugin": entry.plugin.name,
        "distribution": entry.distribution,
        "version": entry.version,
    }


def _faults(registry: Registry) -> dict[str, Any]:
    return {
        "plugins": [
            {"name": plugin.name, "distribution": plugin.distribution, "version": plugin.version, "module": plugin.module}
            for plugin in registry.plugins
        ],
        "broken": [
            {
                "name": broken.name,
                "distribution": broken.distribution,
                "version": broken.version,
                "reason": broken.reason,
                "traceback": broken.traceback,
            }
            for broken in registry.broken
        ],
        "left_out": registry.left_out,
        "conflicts": [
            {"kind": conflict.kind, "name": conflict.name, "plugins": [str(plugin) for plugin in conflict.plugins]}
            for conflict in registry.conflicts
        ],
    }


def _show(registry: Registry, arguments: argparse.Namespace) -> int:
    from ..errors import PluginError, suggest

    name = arguments.name
    for broken in registry.broken:
        if name in (broken.name, broken.distribution):
            raise PluginError(f"the plugin {broken} is broken:\n{broken.traceback.rstrip()}")
    entries = [entry for entry in registry.entries() if name in (entry.name, entry.plugin.name, entry.distribution)]
    exact = [entry for entry in entries if entry.name == name]
    if not entries:
        known = {entry.name for entry in registry.entries()} | {plugin.name for plugin in registry.plugins}
        raise PluginError(f"there is no part or plugin {name!r}; {suggest(name, known)}{registry.missing_hint()}")
    chosen = exact or entries
    if arguments.json:
        _print_json([{**_as_json(entry), "options": _options(entry)} for entry in chosen])
        return 0
    for number, entry in enumerate(chosen):
        print("\n" * bool(number) + f"{entry.kind} {entry.name}: {entry.summary}")
        print(f"from {entry.plugin}")
        _print_options(entry)
    return 0


def _options(entry: Entry) -> list[dict[str, Any]]:
    from pydantic.fields import FieldInfo

    fields: dict[str, FieldInfo] = entry.options.model_fields if entry.options is not None else {}
    return [
        {
            "key": field.alias or name,
            "type": _type_text(field.annotation),
            "required": field.is_required(),
            "default": None if field.is_required() else _plain(field.get_default(call_default_factory=True)),
            "description": field.description or "",
        }
        for name, field in fields.items()
    ]


def _type_text(annotation: Any) -> str:
    plain = isinstance(annotation, type) and not hasattr(annotation, "__args__")
    return annotation.__name__ if plain else str(annotation).replace("typing.", "")


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _print_options(entry: Entry) -> None:
    from .table import print_table

    options = _options(entry)
    if not options:
        print("  no options")
        return
    rows = [
        (
            f"  {option['key']}",
            option["type"],
            "required" if option["required"] else f"{option['default']}",
            option["description"],
        )
        for option in options
    ]
    print_table([("  KEY", "TYPE", "DEFAULT", ""), *rows])


def _doctor(registry: Registry, arguments: argparse.Namespace) -> int:
    unavailable = [(entry, reason) for entry in registry.entries() if (reason := entry.why_unavailable()) is not None]
    faulty = [(entry, reason) for entry in registry.entries() if (reason := _options_fault(entry)) is not None]
    hidden = _hidden_commands(registry)
    bad = bool(registry.broken or registry.conflicts or faulty)
    if arguments.json:
        notes = {
            "unavailable": [{**_as_json(entry), "reason": reason} for entry, reason in unavailable],
            "options": [{**_as_json(entry), "reason": reason} for entry, reason in faulty],
            "hidden": [_as_json(entry) for entry in hidden],
        }
        _print_json({"ok": not bad, **_faults(registry), **notes})
        return 2 if bad else 0
    for broken in registry.broken:
        print(f"broken: {broken}\n{broken.traceback.rstrip()}\n")
    for conflict in registry.conflicts:
        print(f"conflict: {conflict}")
    for entry, reason in faulty:
        print(f"broken options: {entry.kind} {entry.name!r} of {entry.plugin}: {reason}")
    for entry in hidden:
        print(f"hidden: the verb {entry.name!r} of {entry.plugin} is one of llava-kit's own, which comes first")
    for entry, reason in unavailable:
        print(f"not here: {entry.kind} {entry.name!r}: {reason}")
    if registry.left_out:
        print(f"left out by LLAVA_KIT_PLUGINS or -p: {', '.join(registry.left_out)}")
    count = len(registry.entries())
    print(f"{len(registry.plugins)} plugins with {count} parts are well, {len(registry.broken)} plugins are broken")
    return 2 if bad else 0


def _options_fault(entry: Entry) -> str | None:
    """Why an options class cannot check anything. Its schema is built late, so a wrong annotation shows only here."""
    if entry.options is None:
        return None
    try:
        entry.options.model_rebuild()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return None


def _hidden_commands(registry: Registry) -> list[Entry]:
    from .main import VERBS

    return [entry for entry in registry.entries("command") if entry.name in VERBS]
