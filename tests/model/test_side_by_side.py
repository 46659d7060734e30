"""Several encoders as one: widths add up, sizes and grids are brought together."""

import pytest
import torch

from llava_kit.core.tiles import Grid
from llava_kit.errors import LlavaKitError
from llava_kit.model.side_by_side import SideBySideEncoder
from llava_kit.testing.contracts import check_encoder
from llava_kit_shapes import ShapesVitOptions, build_vit


def _encoder(size, width):
    return build_vit(ShapesVitOptions(image_size=size, width=width, depth=1, heads=2), weights=True)


def test_features_stand_side_by_side():
    first, second = _encoder(32, 32), _encoder(32, 16)
    both = SideBySideEncoder([first, second])
    tiles = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(both(tiles), torch.cat([first(tiles), second(tiles)], dim=-1))
    assert both.spec.width == 48


def test_other_sizes_and_grids_are_brought_to_the_first():
    both = SideBySideEncoder([_encoder(32, 32), _encoder(64, 16)])
    assert (both.spec.image_size, both.spec.grid, both.spec.width) == (64, Grid(2, 2), 48)
    check_encoder(both)


def test_one_encoder_is_refused():
    with pytest.raises(LlavaKitError, match="at least two"):
        SideBySideEncoder([_encoder(32, 32)])
