from __future__ import annotations

import pytest

from llava_kit.core.tiles import Grid
from llava_kit.data.cut import cut_of
from llava_kit.image.geometry import Geometry, TilingOptions, TilingPlan

NEXT = TilingPlan(336, TilingOptions(mode="anyres", pinpoints=((336, 672), (672, 336), (672, 672))))
SIDE = Grid(24, 24)


def test_a_canvas_of_tiles():
    cut = cut_of("x", None, (900, 300), NEXT, SIDE)
    assert cut.record()["tiles"] == [2, 1]
    assert cut.overview == Geometry((336, 336), (336, 336), (0, 0), Grid(1, 1))
    left, top, right, bottom = cut.kept_shares
    assert (left, right) == (0, 1)
    # 900 x 300 fills 672 x 224 of 672 x 336: a sixth is left out above and below.
    assert (top, bottom) == pytest.approx((1 / 6, 5 / 6))
    assert cut.rows == 576 + 16 * 49


@pytest.mark.parametrize(("mode", "offset"), [("pad", (0, 112)), ("square", (-336, 0)), ("resize", (0, 0))])
def test_an_overview_alone(mode, offset):
    cut = cut_of("x", None, (900, 300), TilingPlan(336, TilingOptions(mode=mode)), SIDE)
    assert cut.overview == cut.place
    assert cut.place.offset == offset
    assert cut.kept_shares == (0, 0, 1, 1)


def test_one_of_several_pictures_is_padded_where_the_options_say_so():
    plan = TilingPlan(336, TilingOptions(mode="anyres", pinpoints=((336, 672), (672, 336)), several="pad"))
    assert cut_of("x", None, (900, 300), plan, SIDE, alone=False).record()["tiles"] == [1, 1]
    assert cut_of("x", None, (900, 300), plan, SIDE).record()["tiles"] == [2, 1]
