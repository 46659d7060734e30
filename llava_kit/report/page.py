"""A run's `report.html`: made from what the run wrote, so that it can be made again at any time."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from ..pages.charts import Series, bar_chart, line_chart, share_bar
from ..pages.style import STYLE


@dataclass(frozen=True)
class StageRecord:
    """What the report tells of a stage. `parameters`: rows of component, part, total, trained, lr, optimizer."""

    name: str
    steps: int
    seconds: float
    samples: int
    tokens: int
    loss: Sequence[tuple[float, float]]
    validation: Sequence[tuple[float, float]]
    parameters: Sequence[Mapping[str, Any]]
    phases: Mapping[str, float]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A held-out picture with its question. `png` are the bytes of the file."""

    png: bytes
    type: str
    question: str
    truth: str
    answer: str
    blind: str | None
    right: bool

    @property
    def source(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class RunRecord:
    """All that a run's page shows."""

    name: str
    description: str
    folder: str
    date: str
    recipe: str
    environment: Mapping[str, str]
    stages: Sequence[StageRecord]
    evaluation: Mapping[str, Any] | None = None
    pictures: Sequence[Picture] = field(default_factory=tuple)
    seconds: float = 0.0


def render_run(record: RunRecord) -> str:
    """The whole page as one HTML text."""
    environment = Environment(
        loader=PackageLoader("llava_kit.report"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    environment.filters["count"] = count
    stages = [
        {
            "record": stage,
            "loss": Markup(
                line_chart(
                    [Series("training", stage.loss)]
                    + ([Series("validation", stage.validation, dots=True)] if stage.validation else []),
                    x_label="step",
                    y_label="loss",
                )
            ),
            "time": Markup(share_bar(stage.phases)) if stage.phases else "",
        }
        for stage in record.stages
    ]
    columns = _columns(record.evaluation)
    return environment.get_template("run.html.jinja").render(
        run=record,
        style=Markup(STYLE),
        stages=stages,
        columns=columns,
        accuracy=Markup(bar_chart(columns, target=0.95)) if columns else "",
    )


def write_run(record: RunRecord, path: Path) -> None:
    """Write the page, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(render_run(record), encoding="utf-8")
    os.replace(temporary, path)


def duration(seconds: float) -> str:
    """95 -> '1 min 35 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def count(number: float) -> str:
    """542304 -> '542 k'."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def _columns(evaluation: Mapping[str, Any] | None) -> dict[str, Mapping[str, float]]:
    if not evaluation:
        return {}
    names = {"accuracy": "right picture", "wrong_picture": "wrong picture", "majority": "majority answer"}
    return {label: evaluation[key] for key, label in names.items() if key in evaluation}
