"""Jinja chat templates of strangers, rendered as transformers renders them, within bounds of size, memory and time.

Jinja's sandbox keeps a template from the machine but not from eating it: `'a' * 3_000_000_000` is allowed there. So a template
is tried in a process of its own first (this file, run as a script), which the system ends when it takes too much.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

# The longest chat templates in use (tools, thinking, documents) have some 20,000 characters.
MAX_TEMPLATE = 100_000
# Characters or items that one operation may make; a conversation of a million characters fits no model.
MAX_RESULT = 4_000_000
# For a trial. Compiling and rendering a long template takes 0.1 s and 60 MB.
SECONDS = 4
MEMORY = 1 << 30
# `strftime_now` answers with this day: a prompt must not change overnight. Llama 3.1's template falls back to it, too.
TODAY = (2024, 7, 26)


class OutOfBounds(Exception):
    """The template is too large, or takes too much memory or time."""


def compile_template(text: str) -> jinja2.Template:
    """The template, ready to render.

    Raises:
        OutOfBounds: it is longer than `MAX_TEMPLATE`.
        TemplateError: it is no jinja, or an operation in it makes too much (jinja2's own error).
    """
    if len(text) > MAX_TEMPLATE:
        raise OutOfBounds(f"it has {len(text):,} characters; expected at most {MAX_TEMPLATE:,}")
    return _compiled(text)


@lru_cache(maxsize=8)
def _compiled(text: str) -> jinja2.Template:
    return _environment().from_string(text)


def render(text: str, variables: Mapping[str, Any]) -> str:
    """What the template writes. Raises as `compile_template` does, and whatever the template runs into."""
    return compile_template(text).render(**variables)


def check_bounds(text: str, calls: list[dict[str, Any]]) -> None:
    """Renders the template with each of `calls` in a process with little memory and time; other faults are not told here.

    Raises:
        OutOfBounds: it was too much.
    """
    _try_out(text, json.dumps(calls, sort_keys=True))


@lru_cache(maxsize=64)
def _try_out(text: str, calls: str) -> None:
    if len(text) > MAX_TEMPLATE:
        raise OutOfBounds(f"it has {len(text):,} characters; expected at most {MAX_TEMPLATE:,}")
    order = json.dumps({"template": text, "calls": json.loads(calls)})
    try:
        done = subprocess.run(
            [sys.executable, "-P", __file__], input=order.encode(), capture_output=True, timeout=4 * SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise OutOfBounds(f"a short conversation takes it more than {SECONDS} seconds") from None
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:300]
        raise OutOfBounds(
            f"a short conversation takes it more than {SECONDS} seconds or {MEMORY >> 20} MiB "
            f"(the trial ended with code {done.returncode}{': ' + told if told else ''})"
        )


class _Bounded(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which an operation may not make more than `MAX_RESULT` of anything."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(side) for side in (left, right) if hasattr(side, "__len__")]
        numbers = [side for side in (left, right) if isinstance(side, int)]
        if operator == "*" and sizes and numbers and max(sizes) * max(numbers) > MAX_RESULT:
            raise SecurityError(f"repeats {max(sizes)} characters or items {max(numbers):,} times")
        if operator == "**" and len(numbers) == 2 and left and left.bit_length() * max(right, 0) > MAX_RESULT:
            raise SecurityError(f"takes {left} to the power of {right}")
        if operator == "%" and isinstance(left, str) and re.search(r"%[^a-zA-Z%]*(\*|\d{5})", left):
            raise SecurityError(f"pads text: {left[:40]!r}")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, /, *arguments: Any, **named: Any) -> Any:
        """A call such as `text.center(n)`, with no larger number than an operation may make."""
        if any(isinstance(value, int) and value > MAX_RESULT for value in (*arguments, *named.values())):
            raise SecurityError(f"calls {getattr(obj, '__name__', obj)} with a number above {MAX_RESULT:,}")
        return super().call(context, obj, *arguments, **named)


class _Generation(Extension):
    """`{% generation %}` marks what the assistant says; here its contents alone count."""

    tags = {"generation"}  # noqa: RUF012 - as jinja declares it

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment() -> _Bounded:
    """Set up as transformers sets up its own."""
    environment = _Bounded(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _today
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, **style: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **style)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _today(pattern: str) -> str:
    from datetime import datetime

    return datetime(*TODAY).strftime(pattern)


def _trial() -> None:
    """What the process of its own does: the limits first, then the renderings that it was told."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    except (ImportError, ValueError, OSError):  # no such limits on this system; the time is watched from outside
        pass
    order = json.load(sys.stdin)
    for call in order["calls"]:
        try:
            render(order["template"], call)
        except (MemoryError, OverflowError):
            raise
        except Exception:  # faults are told by who renders it for good
            continue


if __name__ == "__main__":
    _trial()
