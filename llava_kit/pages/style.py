"""The look that all pages share: colours for light and dark, cards, tables, charts; a page adds its own after it."""

from __future__ import annotations

from importlib.resources import files

STYLE = (files("llava_kit.pages") / "page.css").read_text(encoding="utf-8")
