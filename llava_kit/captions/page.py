"""The page that shows what the filter did: figures, how often phrases are said before and after, the most frequent ones."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from ..pages.histogram import rank_chart
from ..pages.style import STYLE
from .statistics import expand, figures


def render_page(name: str, told: dict[str, Any]) -> str:
    """The page as one HTML text; `told` are the statistics."""
    environment = Environment(
        loader=PackageLoader("llava_kit.captions"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    lines = {"before": expand(told["before"]), "after": expand(told["after"])}
    chart = rank_chart(lines, x_label="rank of the phrase", y_label="captions")
    return environment.get_template("captions.html.jinja").render(
        name=name, told=told, rows=figures(told), chart=Markup(chart), style=Markup(STYLE)
    )
