"""The codes of a splice plan, apart from the plan: counting a picture's rows is arithmetic and needs no torch."""

from __future__ import annotations

TEXT, NEWLINE, PAD, BLENDED = -1, -2, -3, -4
"""Codes in `SplicePlan.source`; numbers >= 0 are visual rows."""
