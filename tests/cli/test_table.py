"""Columns stand under one another, and a terminal's width is kept."""

from llava_kit.cli.table import table_lines


def test_columns_and_width():
    rows = [("NAME", "WHAT"), ("a", "short"), ("longer", "a summary that goes on and on")]
    assert list(table_lines(rows)) == ["NAME    WHAT", "a       short", "longer  a summary that goes on and on"]
    assert list(table_lines(rows, 20)) == ["NAME    WHAT", "a       short", "longer  a summary t…"]
    assert list(table_lines([])) == []
