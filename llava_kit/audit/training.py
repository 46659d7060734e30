"""What training will see of a sample: its tokens and tiles, the share that is learnt, and what `max_length` will cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..core.conversation import Sample
from ..data.clips import tell_times
from ..data.example import ExampleMaker, fit_turns
from ..errors import SampleError
from ..splice.layout import count_rows
from .text import Mistake

# Of a hundred positions one that is learnt: the rest of the step is spent on a picture for one word.
FEW_TARGETS = 0.001


class Taught(NamedTuple):
    """Counts of one sample as it would be without `max_length`: positions, those of pictures, tiles, learnt tokens."""

    length: int
    picture_length: int
    tiles: int
    targets: int


class TrainingChecker:
    """Lays samples out as a stage would; headers are read, pixels are not. Can be pickled to workers."""

    def __init__(self, maker: ExampleMaker):
        self.maker = maker
        unknown = getattr(maker.tokenizer, "unk_token_id", None)
        # A tokenizer that pads or ends with the unknown token writes it itself.
        own = {getattr(maker.tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
        self.unknown = None if unknown in own else unknown

    def look(self, sample: Sample, mistakes: list[Mistake]) -> Taught | None:
        """The sample's counts; what goes wrong is added to `mistakes`, unless that reason stands there already."""
        known = {reason for reason, _ in mistakes}
        try:
            return self._laid_out(sample, mistakes)
        except SampleError as error:
            if error.reason not in known and not ({"missing_image", "unreadable_image", "truncated_image"} & known):
                mistakes.append((error.reason, error.message))
            return None

    def _laid_out(self, sample: Sample, mistakes: list[Mistake]) -> Taught:
        maker = self.maker
        shown = maker.shown(sample)
        rows = [count_rows(one.grid, maker.side) for one in shown]
        told = tell_times(sample, shown)
        fitted = fit_turns(told, maker.template, maker.tokenizer, picture_lengths=rows, max_length=None)
        targets = int(np.count_nonzero(fitted.encoded.trainable[1:]))
        mistakes.extend(self._told(fitted.encoded.token_ids, targets, fitted.length))
        if fitted.length > maker.max_length:
            # What does not fit is refused here, and told by `look`.
            kept = fit_turns(
                told,
                maker.template,
                maker.tokenizer,
                picture_lengths=rows,
                max_length=maker.max_length,
                too_long=maker.too_long,
            )
            found = f"takes {fitted.length} positions, more than max_length {maker.max_length}"
            left = len(sample.conversation.messages) - kept.dropped_turns
            mistakes.append(("dropped_turns", f"{found}; {kept.dropped_turns} turns are left out, {left} stay"))
        return Taught(fitted.length, sum(rows), sum(one.grid.num_tiles for one in shown), targets)

    def _told(self, token_ids: np.ndarray, targets: int, length: int) -> Iterator[Mistake]:
        if targets < FEW_TARGETS * length:
            yield "few_targets", f"{targets} of its {length} positions are learnt"
        if self.unknown is not None and (count := int(np.count_nonzero(token_ids == self.unknown))):
            yield "unknown_token", f"{count} of its {len(token_ids)} tokens are unknown to the tokenizer"
