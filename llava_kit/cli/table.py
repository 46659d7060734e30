"""Plain tables for the terminal: aligned columns, the last one cut where the terminal ends.

The rich library draws nicer ones and takes 40 ms to import, a fifth of what listing the plugins may take in all.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence


def table_lines(rows: Sequence[Sequence[str]], width: int | None = None) -> Iterator[str]:
    """The rows as lines. With `width` (of a terminal, in letters) longer lines are cut."""
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(cell.ljust(size) for cell, size in zip(row, widths)).rstrip()
        yield line if width is None or len(line) <= width else line[: width - 1] + "…"


def print_table(rows: Sequence[Sequence[str]]) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in table_lines(rows, width):
        print(line)
