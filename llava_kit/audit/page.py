"""A check's result as one page that needs nothing beside it: counts, charts, and pictures of what was found."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from ..core.source import DataSource
from ..errors import LlavaKitError, SampleError
from ..image.reader import read_picture
from ..pages.histogram import histogram
from ..pages.style import STYLE
from .reasons import reason_of
from .report import Finding, Report

# Findings that are shown with their picture, in a page; its longest side in pixels.
PICTURED, SIDE = 20, 320
# Examples of each reason in words.
EXAMPLES = 5

_OWN_STYLE = """
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px }
.error { color: var(--bad); font-weight: 600 } .warning { color: var(--s2); font-weight: 600 }
td, td.examples { white-space: normal; text-align: left } table th { text-align: left }
.charts, .pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1rem }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)) }
figure { margin: 0 } .pictures img { max-width: 100%; max-height: 15rem; display: block; background: #8882 }
figcaption, td.examples { overflow-wrap: anywhere; font-size: .85rem } td.examples div { margin-bottom: .3rem }
td { vertical-align: top } td.number, th.number { text-align: right } p { overflow-wrap: anywhere }
@media (max-width: 700px) {
  main { padding: 20px 14px 40px } thead { display: none }
  tr { display: block; padding: 8px 0; border-bottom: 1px solid var(--edge) }
  td, td.number { display: inline; padding: 0 6px 0 0; border: 0 } td.means, td.examples { display: block; padding: 4px 0 0 }
}
"""
_CHARTS = (
    ("turns", "turns of a sample", False),
    ("question_words", "words of a question", True),
    ("answer_words", "words of an answer", True),
    ("picture_width", "picture width in pixels", False),
    ("picture_height", "picture height in pixels", False),
    ("picture_kilobytes", "kilobytes of a picture file", True),
    ("length", "positions of a sample, pictures included", False),
    ("tiles", "tiles of a sample", False),
    ("targets", "learnt tokens of a sample", True),
    ("learnt_percent", "learnt, % of the positions", False),
)


def write_page(path: str | os.PathLike[str], checked: Sequence[tuple[Report, DataSource]]) -> None:
    """Writes the page of these reports to `path`; the sources are asked for the pictures of what was found."""
    body = "".join(_section(report, source) for report, source in checked)
    title = escape(", ".join(report.name for report, _ in checked))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Check of {title}</title><style>{STYLE}{_OWN_STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
    unfinished = Path(f"{os.fspath(path)}.tmp")
    try:
        unfinished.write_text(page, encoding="utf-8", errors="backslashreplace")
        os.replace(unfinished, path)
    except OSError as error:
        raise LlavaKitError(f"{os.fspath(path)}: cannot be written: {os.strerror(error.errno or 0)}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _section(report: Report, source: DataSource) -> str:
    clean = report.samples - report.bad - report.doubtful
    how = "decoded" if report.decoded else "headers alone"
    counts = (
        f"{report.samples:,} samples and {report.pictures:,} pictures ({how}): "
        f'<span class="error">{report.bad:,} with errors</span>, '
        f'<span class="warning">{report.doubtful:,} with warnings</span>, {clean:,} clean.'
    )
    told = [f"<h1>Check of {escape(report.name)}</h1>", f"<p>{counts}</p>"]
    told += [f"<p>Compared with {escape(split)} ({count:,} samples).</p>" for split, count in report.against.items()]
    told += [f'<p class="muted">{escape(note)}</p>' for note in report.notes]
    if report.counts:
        told.append(f"<section><h2>What was found</h2>{_table(report)}</section>")
    pictured = "".join(_pictured(report, source))
    if pictured:
        told.append(f'<section><h2>Pictures of what was found</h2><div class="pictures">{pictured}</div></section>')
    charts = "".join(
        f'<figure class="card">{histogram({report.name: report.spread[code]}, x_label=label, log=log)}</figure>'
        for code, label, log in _CHARTS
        if report.spread.get(code)
    )
    if charts:
        told.append(f'<section><h2>How the numbers are spread</h2><div class="charts">{charts}</div></section>')
    return "".join(told)


def _table(report: Report) -> str:
    rows = []
    for code in report.codes():
        reason, severity = reason_of(code), report.kept[code][0].severity
        examples = "".join(
            f"<div>row {finding.row}, {escape(repr(finding.id))}: {escape(finding.message)}</div>"
            for finding in report.kept[code][:EXAMPLES]
        )
        rows.append(
            f'<tr><td class="{severity}">{severity}</td><td><code>{escape(code)}</code></td>'
            f'<td class="number">{report.counts[code]:,}</td>'
            f'<td class="means">{escape(reason.means)}.<br><em>{escape(reason.todo)}</em></td>'
            f'<td class="examples">{examples}</td></tr>'
        )
    head = '<tr><th></th><th>reason</th><th class="number">count</th><th>what it means, what to do</th><th>where</th></tr>'
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _pictured(report: Report, source: DataSource) -> Iterator[str]:
    """Figures of findings that have a picture which can be shown: of each reason one, then the next of each.

    Reasons that are about pictures and boxes come first.
    """
    shown = 0
    about = [code for code in report.codes() if report.kept[code][0].slot is not None or "box" in code]
    queues = [report.kept[code] for code in dict.fromkeys([*about, *report.codes()])]
    for place in range(max(map(len, queues), default=0)):
        for queue in queues:
            if shown < PICTURED and place < len(queue) and (image := _image(queue[place], source)) is not None:
                shown += 1
                yield image


def _image(finding: Finding, source: DataSource) -> str | None:
    try:
        images = source[finding.row].images
        picture = read_picture(images[finding.slot or 0]) if images else None
    except (SampleError, IndexError):
        return None
    if picture is None:
        return None
    picture.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    told = f"<b>{escape(finding.reason)}</b>, row {finding.row}, {escape(repr(finding.id))}: {escape(finding.message)}"
    return f'<figure><img alt="" src="data:image/jpeg;base64,{data}"><figcaption>{told}</figcaption></figure>'
