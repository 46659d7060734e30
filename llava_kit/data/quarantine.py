"""Samples that could not be used: written down, counted, and too many of them stop the run."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from ..errors import TrainingError
from .loader import BadSample


class Quarantine:
    """Appends `{id, reason, message, step}` to a file of JSON lines, `step` counting from 0.

    The run stops when more than `free` samples and more than the share `budget` of those seen are bad; reasons in `expected`
    (a policy that drops samples on purpose) are written and counted but do not weigh. A run that resumes at `start_step`
    takes back the lines from there on, since those steps come again; `seen` is how many samples there were before it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        budget: float = 0.01,
        free: int = 10,
        start_step: int = 0,
        seen: int = 0,
        expected: Collection[str] = (),
    ):
        self.path = Path(path)
        self.budget, self.free, self.expected = budget, free, frozenset(expected)
        self.seen = seen
        self.counts: Counter[str] = Counter()
        self._take_back(start_step)

    @property
    def num_bad(self) -> int:
        return self.counts.total()

    def add(self, step: int, bad: Sequence[BadSample], num_seen: int) -> None:
        """Note a step's bad samples; `num_seen` are all its samples, good and bad.

        Raises:
            TrainingError: the budget is spent. The lines are on disk by then.
        """
        self.seen += num_seen
        if not bad:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A lone surrogate becomes the escape that JSON has for it.
        with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
            for sample in bad:
                file.write(json.dumps({**sample._asdict(), "step": step}, ensure_ascii=False) + "\n")
        self.counts.update(sample.reason for sample in bad)
        weighing = sum(number for reason, number in self.counts.items() if reason not in self.expected)
        if weighing > self.free and weighing > self.budget * self.seen:
            raise TrainingError(
                f"{weighing} of {self.seen} samples could not be used, more than the budget of {self.budget:.1%} "
                f"(and more than {self.free}): {self.summary()}; see {self.path}; mend the data or raise the budget"
            )

    def summary(self) -> str:
        """The counts by reason, the most frequent first; `none` without bad samples."""
        return ", ".join(f"{number} x {reason}" for reason, number in self.counts.most_common()) or "none"

    def _take_back(self, start_step: int) -> None:
        """Keep the lines of the steps before `start_step`; a line that a crash cut short goes too."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                entry = json.loads(line)
                earlier = entry["step"] < start_step
                reason = entry["reason"]
            except (ValueError, KeyError, TypeError):
                continue
            if earlier:
                kept.append(line)
                self.counts[reason] += 1
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, self.path)
