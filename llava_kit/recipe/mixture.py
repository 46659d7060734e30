"""A mixture: several sources as one, each taken whole or in part.

It is the block `{type: mixture, of: {name: {source: {...}, take: random:10%}, ...}}`, wherever a source may stand.
"""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from .blocks import Block, Name, Part

MIXTURE = "mixture"
"""The type of source that the house has itself."""

_TAKE = re.compile(r"all|(first|end|random):(\d+(?:\.\d+)?%|\d+)")


def _take(value: str) -> str:
    found = _TAKE.fullmatch(value)
    if found is None:
        raise ValueError("expected all, first:N, end:N or random:N, where N is a count or a share such as 25%")
    amount = found[2]
    if amount is not None and (float(amount.rstrip("%")) <= 0 or (amount.endswith("%") and float(amount[:-1]) > 100)):
        raise ValueError("expected a count of at least 1, or a share above 0% and at most 100%")
    return value


class Ingredient(Block):
    """One source of a mixture and how much of it is taken."""

    source: Part
    take: Annotated[str, AfterValidator(_take)] = Field(
        default="all", description="all, first:N, end:N or random:N samples; N is a count, or a share such as 25%, rounded up"
    )
    repeat: int = Field(default=1, ge=1, le=1_000_000, description="how many times what is taken stands in the mixture")

    @property
    def rule(self) -> str:
        """Which samples are taken: `all`, `first`, `end` or `random`."""
        return self.take.partition(":")[0]

    def count(self, available: int) -> int:
        """How many of `available` samples are taken, before they are repeated. A count above what there is takes all."""
        if self.take == "all":
            return available
        amount = self.take.partition(":")[2]
        # The original rounds shares up. Rounded first: 10 % of 30 are 3, not ceil(3.0000000000000004).
        wanted = math.ceil(round(float(amount[:-1]) / 100 * available, 9)) if amount.endswith("%") else int(amount)
        return min(wanted, available)


class Mixture(Block):
    """Several sources as one, in the order in which they are named; a stage shuffles them together."""

    of: dict[Name, Ingredient] = Field(min_length=1, description="the ingredients by name")
    seed: int = Field(default=0, description="for ingredients of which a random part is taken")
