"""The page's parts put together: one template, one style, one script, served or written into a single file."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from ..pages.style import STYLE

_PARTS = {"css": ("view.css",), "js": ("draw.js", "view.js")}


@cache
def part_of_page(kind: str) -> str:
    """The page's `css` (the style of all pages first) or its `js`."""
    folder = files("llava_kit.view") / "templates"
    texts = [(folder / name).read_text(encoding="utf-8") for name in _PARTS[kind]]
    return "\n".join([STYLE, *texts] if kind == "css" else texts)


def live_page(name: str) -> str:
    """The page that asks its server."""
    return _template().render(name=name, policy=None, style=None, script=None)


def static_page(name: str) -> tuple[str, str]:
    """What stands before and behind the data of a page in one file. Nothing but this very style and script may run in it."""
    style, script = part_of_page("css"), part_of_page("js")
    assert "</script" not in script.lower()
    assert "</style" not in style.lower()
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    page = _template().render(name=name, policy=policy, style=Markup(style), script=Markup(script))
    before, _, behind = page.partition("<!-- data -->")
    return before, behind


def data_block(identity: str, value: Any) -> str:
    """`value` as JSON in a block that no browser runs; no text in it can end the block."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII, so that no letter is a line end in a script
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return f'<script type="application/json" id="data-{identity}">{text}</script>\n'


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("llava_kit.view"), autoescape=select_autoescape(default=True), keep_trailing_newline=True
    )
    return environment.get_template("view.html.jinja")
