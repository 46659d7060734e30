import pytest

from llava_kit.core.conversation import ImageSlot
from llava_kit.core.turns import picture_first

A, B = ImageSlot(0), ImageSlot(1)


@pytest.mark.parametrize(
    ("parts", "moved"),
    [
        (["What? ", A], [A, "\nWhat?"]),
        (["a ", A, " b\n"], [A, "\na  b"]),
        ([" \n", A], [A]),
        ([A, " and ", B], [A, " and ", B]),
        ([" as it is "], [" as it is "]),
        ([], []),
    ],
)
def test_a_turn_s_only_picture_goes_before_its_text(parts, moved):
    assert picture_first(parts) == moved
