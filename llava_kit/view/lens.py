"""What a recipe adds to the look of a sample: how its pictures are cut, and how its text is tokenised and learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.conversation import Clip, ClipFolder, Sample
from ..core.tiles import Grid
from ..data.cut import cut_of
from ..errors import SampleError, first_line
from ..image.geometry import TilingPlan

if TYPE_CHECKING:
    from ..data.example import ExampleMaker
    from ..data.look import Look

READ, LEARNT, PICTURE = 0, 1, 2
"""What a piece of a sample is: only read, learnt, or the place of a picture."""


@dataclass(frozen=True)
class Lens:
    """`name` of the recipe (empty: none), its tiling, and with a tokenizer the maker of its examples.

    `note` tells what cannot be shown, and why.
    """

    name: str = ""
    plan: TilingPlan | None = None
    side: Grid | None = None
    maker: ExampleMaker | None = None
    note: str = ""

    def cut(self, size: tuple[int, int], alone: bool) -> dict[str, Any] | None:
        """How a picture is cut, as numbers for a drawing; None without a tiling.

        `kept` is in shares of the canvas: left, top, right, bottom. All else is in pixels of canvas and overview.
        """
        if self.plan is None or self.side is None:
            return None
        cut = cut_of("", None, size, self.plan, self.side, alone=alone)
        overview = cut.overview
        return {
            **cut.record(),
            "mode": self.plan.mode(alone),
            "kept_lines": cut.record()["kept"],
            "kept": list(cut.kept_shares),
            "overview": {
                "canvas": list(overview.canvas),
                "resized": list(overview.resized),
                "offset": list(overview.offset),
                "rows": self.side.area,
            },
            "detail": bool(cut.grid.tiles.area),
        }

    def problem(self, sample: Sample) -> tuple[str, str] | None:
        """Reason and message for which the recipe cannot use the sample; None where it can, or where nobody can say."""
        if self.maker is None:
            return None
        look = self._looks(sample)[0]
        return None if look.status == "ok" else (look.status, look.message)

    def counts(self, sample: Sample) -> tuple[int, int] | None:
        """Positions that the sample takes and tokens that are learnt of it; None where it cannot be used."""
        if self.maker is None:
            return None
        look = self._looks(sample)[0]
        return (look.length, look.num_targets) if look.status == "ok" else None

    def tokens(self, sample: Sample) -> dict[str, Any] | None:
        """The sample token by token: `pieces` of [text, kind, left out]; counts are of what is kept."""
        if self.maker is None:
            return None
        maker = self.maker
        look, told, rows, newlines = self._looks(sample)
        whole = look
        if look.dropped_turns or look.status == "too_long":
            whole = self._look(told, rows, None)
            if whole.status != "ok" or whole.token_ids[: len(look.token_ids)] != look.token_ids:
                whole = look  # a template that writes the kept turns otherwise: show what is trained on
        return {
            "status": look.status,
            "message": look.message,
            "pieces": self._pieces(whole, len(look.token_ids), rows),
            "length": look.length,
            "whole_length": whole.length,
            "text": len(look.token_ids) - len(look.slots),
            "visual": sum(rows[slot] - newlines[slot] for slot in look.slots),
            "newlines": sum(newlines[slot] for slot in look.slots),
            "targets": look.num_targets,
            "dropped_turns": look.dropped_turns,
            "max_length": maker.max_length,
        }

    def _looks(self, sample: Sample) -> tuple[Look, Sample, list[int], list[int]]:
        """The look, the sample with its clips' times told, and for each picture its rows and how many are newlines."""
        from ..data.clips import tell_times
        from ..data.look import refused
        from ..splice.layout import count_newlines, count_rows

        maker = self.maker
        assert maker is not None
        try:
            shown = maker.shown(sample)
        except SampleError as error:
            return refused(error, sample.id), sample, [], []
        rows = [count_rows(one.grid, maker.side) for one in shown]
        newlines = [count_newlines(one.grid, maker.side) for one in shown]
        told = tell_times(sample, shown)
        return self._look(told, rows, maker.max_length), told, rows, newlines

    def _look(self, told: Sample, rows: list[int], max_length: int | None) -> Look:
        """`look_at`; where template or tokenizer fall over (half of a surrogate pair as text), a page shows that as well."""
        from ..data.look import look_at, refused

        maker = self.maker
        assert maker is not None
        try:
            return look_at(
                told,
                maker.template,
                maker.tokenizer,
                picture_lengths=rows,
                max_length=max_length,
                too_long=maker.too_long,
            )
        except Exception as error:
            return refused(SampleError("not_tokenised", f"cannot be tokenised: {first_line(error)}"), told.id)

    def _pieces(self, look: Look, kept: int, rows: list[int]) -> list[list[Any]]:
        from ..data.look import pieces_of

        assert self.maker is not None
        words = pieces_of(self.maker.tokenizer, look.token_ids)
        places = iter(look.slots)
        pieces: list[list[Any]] = []
        for number, (token, learnt, word) in enumerate(zip(look.token_ids, look.trainable, words)):
            left_out = int(number >= kept)
            if token < 0:
                slot = next(places)
                pieces.append([f"[picture {slot + 1}: {rows[slot]} rows]", PICTURE, left_out])
            else:
                pieces.append([word, LEARNT if learnt else READ, left_out])
        return pieces


def is_alone(sample: Sample) -> bool:
    """Whether the sample has one picture at most; clips do not count (as in `data.clips`)."""
    return sum(not isinstance(image, Clip | ClipFolder) for image in sample.images) < 2
