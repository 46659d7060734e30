"""Whether a SplicePlan keeps its promises: asked once, on the CPU, so that no kernel needs to.

B rows of S positions, T = B * S, X text, K visual, L newline, R blended rows and Z blanks; V visual rows of the tiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import LlavaKitError

if TYPE_CHECKING:
    from .splice import Blend, SplicePlan

# Indices on the device are int32.
_MOST = 2**31 - 1


def check_plan(plan: SplicePlan) -> None:
    """Every seat is filled exactly once, every list names rows and seats that exist. The plan lies on the CPU.

    Raises:
        LlavaKitError: what was found, what was expected.
    """
    positions = plan.shape[0] * plan.shape[1]
    _expect(
        max(positions, plan.num_visual) <= _MOST, f"{positions} positions and {plan.num_visual} visual rows", f"at most {_MOST}"
    )
    _expect(plan.spare in (0, 1), f"spare {plan.spare}", "0, or 1 for lists that are filled up")
    _expect(len(plan.source) == positions, f"a source of {len(plan.source)}", f"one for each of {positions} positions")
    # numpy: some thirty operations on short lists, of which torch would need ten times the overhead.
    pairs = [("text", plan.text_ids, plan.text_positions), ("visual", plan.visual_rows, plan.visual_positions)]
    for what, rows, seats in pairs:
        _expect(len(rows) == len(seats), f"{len(rows)} {what} rows for {len(seats)} seats", "as many of both")
    lists = [plan.text_positions, plan.visual_positions, plan.newline_positions, plan.inverse.blank_positions]
    seats = [seats.numpy() for seats in (*lists, *(blend.positions for blend in plan.blends))]
    _check_seats(np.concatenate(seats), positions, plan.spare)
    wanted = np.concatenate([plan.visual_rows.numpy(), *(blend.rows.numpy() for blend in plan.blends)])
    _check_range(wanted, plan.num_visual, "visual rows")
    _check_inverse(plan, wanted)
    for blend in plan.blends:
        _check_blend(blend)
    offsets = plan.sequences.offsets.numpy()
    _check_bounds(offsets, positions, "sequences")
    longest = int(np.diff(offsets).max(initial=0))
    _expect(plan.sequences.longest >= longest, f"a sequence of {longest}", f"at most `longest`, {plan.sequences.longest}")


def _check_seats(seats: NDArray, positions: int, spare: int) -> None:
    _check_range(seats, positions + spare, "seats")
    taken = np.bincount(seats, minlength=positions + spare)[:positions]
    if (taken != 1).any():
        seat = int((taken != 1).argmax())
        _expect(False, f"seat {seat} filled {int(taken[seat])} times", "each seat filled once")


def _check_inverse(plan: SplicePlan, wanted: NDArray) -> None:
    inverse = plan.inverse
    _expect(
        len(inverse.visual_places) == plan.num_visual,
        f"{len(inverse.visual_places)} visual places",
        f"one for each of {plan.num_visual} visual rows",
    )
    all_places = inverse.visual_places.numpy()
    right = all_places[wanted] == np.arange(len(wanted))
    once = right.sum() == (all_places >= 0).sum()
    # Lists that are filled up name a row again.
    _expect(bool(once and (right.all() or plan.spare)), "visual rows named twice", "each once")
    _check_bounds(inverse.group_bounds.numpy(), len(inverse.text_seats), "groups of text seats")
    _check_bounds(inverse.token_bounds.numpy(), len(inverse.group_bounds) - 1, "tokens")
    _expect(
        len(inverse.tokens) == len(inverse.token_bounds) - 1,
        f"{len(inverse.tokens)} tokens with {len(inverse.token_bounds)} bounds",
        "one bound more than tokens",
    )


def _check_blend(blend: Blend) -> None:
    _check_range(blend.taps.numpy(), len(blend.rows), "taps")
    _check_range(blend.readers.numpy(), blend.taps.numel(), "readers of blends")
    _check_bounds(blend.reader_bounds.numpy(), len(blend.readers), "readers of blends")
    counts = (len(blend.taps), len(blend.weights), len(blend.positions), len(blend.reader_bounds) - 1)
    _expect(counts[0] == counts[1] == counts[2], f"a blend of {counts[:3]} taps, weights and positions", "as many of each")
    _expect(counts[3] == len(blend.rows), f"readers of {counts[3]} rows", f"of each of {len(blend.rows)}")


def _check_range(values: NDArray, limit: int, what: str) -> None:
    if values.size:
        least, most = int(values.min()), int(values.max())
        _expect(least >= 0 and most < limit, f"{what} from {least} to {most}", f"from 0 to {limit - 1}")


def _check_bounds(bounds: NDArray, total: int, what: str) -> None:
    rising = bool(bounds.size) and bounds[0] == 0 and bounds[-1] == total and bool((np.diff(bounds) >= 0).all())
    _expect(rising, f"bounds of {what} that do not rise from 0 to {total}", "bounds that do")


def _expect(holds: bool, found: str, expected: str) -> None:
    if not holds:
        raise LlavaKitError(f"splice plan: found {found}, expected {expected}; make plans with `llava_kit.splice.build_plan`")
