"""What a check gives back: findings, counts, and how the numbers of the data are spread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .reasons import SEVERITIES, Severity, reason_of

# Findings of each reason that a report keeps. All of them go to whoever listens to `on_finding`.
KEPT = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake of one row. `picture` names the picture that is meant, `other` the row that it is compared with."""

    row: int
    id: str
    reason: str
    message: str
    picture: str | None = None
    slot: int | None = None
    """The picture's number in its sample."""
    other: int | None = None

    @property
    def severity(self) -> Severity:
        return reason_of(self.reason).severity

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what does not apply is left out."""
        told: dict[str, Any] = {"row": self.row, "id": self.id, "reason": self.reason, "severity": self.severity}
        told["message"] = self.message
        if self.picture is not None:
            told["picture"] = self.picture
        if self.other is not None:
            told["other"] = self.other
        return told


@dataclass(frozen=True)
class Report:
    """The result of a check.

    name      what was checked
    samples   rows that were looked at, `bad` of them with an error, `doubtful` with a warning and no error
    pictures  distinct picture files that were looked at; `decoded` says whether their pixels were too
    counts    reason -> findings
    kept      reason -> the first `KEPT` of them
    spread    what is counted in the samples -> value -> how often
    against   what it was compared with -> samples there
    notes     what could not be looked at, and why
    """

    name: str
    samples: int
    bad: int
    doubtful: int
    pictures: int
    decoded: bool
    counts: Mapping[str, int]
    kept: Mapping[str, tuple[Finding, ...]]
    spread: Mapping[str, Mapping[int, int]]
    sources: Mapping[str, int]
    against: Mapping[str, int]
    seconds: float
    notes: tuple[str, ...] = ()

    def number_of(self, severity: Severity) -> int:
        """Findings of that severity."""
        return sum(count for code, count in self.counts.items() if reason_of(code).severity == severity)

    def codes(self) -> list[str]:
        """The reasons that were found: the worst first, then the most frequent."""
        return sorted(self.counts, key=lambda code: (SEVERITIES.index(reason_of(code).severity), -self.counts[code], code))

    def fails(self, strict: bool = False) -> bool:
        """Whether there are errors, or with `strict` warnings."""
        return bool(self.number_of("error") or (strict and self.number_of("warning")))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "samples": self.samples,
            "bad": self.bad,
            "doubtful": self.doubtful,
            "pictures": self.pictures,
            "decoded": self.decoded,
            "errors": self.number_of("error"),
            "warnings": self.number_of("warning"),
            "against": dict(self.against),
            "notes": list(self.notes),
            "findings": [
                {
                    "reason": code,
                    **reason_of(code)._asdict(),
                    "count": self.counts[code],
                    "examples": [finding.as_dict() for finding in self.kept[code]],
                }
                for code in self.codes()
            ],
            "spread": {
                name: {str(value): count for value, count in sorted(found.items())} for name, found in self.spread.items()
            },
            "sources": dict(self.sources),
            "seconds": round(self.seconds, 3),
        }
