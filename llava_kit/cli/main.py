"""`llava-kit`: finds the verb, runs it, and tells what went wrong. Imports nothing that `--help` does not need."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from llava_kit import __version__
from llava_kit.errors import LlavaKitError, RecipeError, nearest

VERBS = {
    "train": "train the stages of a recipe, evaluate the model, write the report",
    "chat": "talk with a trained model about pictures",
    "evaluate": "ask a trained model the questions of a benchmark",
    "export": "write a model for transformers, vLLM or the original repositories, and compare",
    "recipe": "list, show, check, plan or copy recipes; print their JSON schema",
    "inspect": "see what the model sees: tiles of a picture, tokens of a sample, a batch",
    "data": "read, convert, check, look at, make, choose and compare data",
    "plugins": "list what is installed, show its options, find what is wrong with it",
    "env": "versions and devices, for a bug report",
}
"""Verb -> one line of help. The file of a verb is `llava_kit/cli/<verb>.py`."""

BLOCKED = "LLAVA_KIT_NO_PLUGINS"
"""As in `registry.manager`, which is too dear to import for `--help`; a test holds the two together."""

EPILOG = """
exit codes: 0 done, 1 stopped, 2 wrong input, 3 data, 4 checkpoint, 130 and 143 interrupted
plugins may add verbs; `llava-kit plugins list` shows them. LLAVA_KIT_PLUGINS=a,b loads these plugins alone (empty: none).
"""

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
EXIT_BUG = 1
EXIT_NO_ROOM = 1
# A full disk, a quota, a limit of the shell (`ulimit -f`), a disk that became read-only: no fault of ours.
NO_ROOM = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])

REPORT = "this is a bug in llava-kit or in a plugin: please report it with the lines above and the output of `llava-kit env`"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and gives its exit code."""
    _make_output_robust()
    arguments = list(sys.argv[1:] if argv is None else argv)
    own = _global_parser()
    settings, words = own.parse_known_args(_up_to_verb(arguments))
    rest = arguments[len(_up_to_verb(arguments)) :]
    if words:
        own.error(f"unknown option {words[0]}")
    if not rest:
        own.print_help()
        return 0
    blocked = os.environ.get(BLOCKED)
    try:
        if settings.plugins:
            # An environment variable, so that worker processes and restarts obey too.
            os.environ[BLOCKED] = ",".join(filter(None, [blocked, *settings.plugins]))
        return _run_guarded(rest[0], rest[1:], show_trace=settings.traceback)
    finally:
        if settings.plugins:
            _restore(BLOCKED, blocked)


def _restore(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value


def _up_to_verb(arguments: list[str]) -> list[str]:
    """The arguments before the verb; `-p` alone takes a value."""
    position = 0
    while position < len(arguments) and arguments[position].startswith("-"):
        position += 2 if arguments[position] == "-p" else 1
    return arguments[:position]


def _global_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llava-kit",
        usage="llava-kit [-h] [--version] [--traceback] [-p no:NAME] VERB ...",
        description="Assemble, train, evaluate and serve LLaVA-style vision-language models.\n\nverbs:\n" + _verb_lines(),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"llava-kit {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show the trace of an error that has a message of its own")
    parser.add_argument(
        "-p",
        dest="plugins",
        action="append",
        default=[],
        metavar="no:NAME",
        type=_blocked_plugin,
        help="do not load this plugin",
    )
    return parser


def _verb_lines() -> str:
    return "\n".join(f"  {verb:10}{line}" for verb, line in VERBS.items())


def _blocked_plugin(text: str) -> str:
    if not text.startswith("no:") or not text[3:].strip():
        raise argparse.ArgumentTypeError(f"write -p no:NAME to leave a plugin out, found {text!r}")
    return text[3:].strip()


def _run_guarded(verb: str, arguments: list[str], show_trace: bool) -> int:
    """Runs the verb; every way it can fail becomes a message and an exit code."""
    try:
        code = _run(verb, arguments)
        sys.stdout.flush()
        return code
    except LlavaKitError as error:
        if show_trace:
            traceback.print_exc()
        _tell(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            if show_trace:
                traceback.print_exc()
            where = f"{error.filename}:" if error.filename else "a file"
            print(
                f"llava-kit: {where} cannot be written: {error.strerror}; make room, then give the command again",
                file=sys.stderr,
            )
            return EXIT_NO_ROOM
        traceback.print_exc()
        print(f"llava-kit: {REPORT}", file=sys.stderr)
        return EXIT_BUG


def _tell(error: LlavaKitError) -> None:
    if isinstance(error, RecipeError):  # lines that begin with file:line, which editors and terminals make into links
        for problem in error.problems:
            print(problem, file=sys.stderr)
        count = len(error.problems)
        print(f"llava-kit: {count} problem{'s' if count > 1 else ''}; nothing was started", file=sys.stderr)
    else:
        print(f"llava-kit: {error}", file=sys.stderr)


def _run(verb: str, arguments: list[str]) -> int:
    add_arguments, run = _find(verb)
    parser = argparse.ArgumentParser(prog=f"llava-kit {verb}", description=VERBS.get(verb))
    add_arguments(parser)
    return run(parser.parse_args(arguments)) or 0


def _find(verb: str) -> tuple[Callable[..., Any], Callable[..., int | None]]:
    if verb in VERBS:
        module = importlib.import_module(f"llava_kit.cli.{verb}")
        return module.add_arguments, module.run
    # Only a verb that is not ours is worth the time that loading the plugins takes.
    manager = importlib.import_module("llava_kit.registry.manager")
    registry = manager.default_registry()
    commands = {entry.name: entry for entry in registry.entries("command")}
    if verb in commands:
        return commands[verb].build()
    best = nearest(verb, [*VERBS, *commands])
    hint = f"did you mean {best!r}?" if best else f"verbs: {', '.join([*VERBS, *commands])}"
    raise LlavaKitError(f"there is no verb {verb!r}; {hint}{registry.missing_hint()}")


def _make_output_robust() -> None:
    """A terminal that cannot show a letter gets an escape for it, not a crash."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
