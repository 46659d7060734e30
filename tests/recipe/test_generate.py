"""The step `generate`: what may be asked for, and what is wrong with what may not."""

import pytest
from pydantic import ValidationError

from llava_kit.recipe.generate import Generate


def step(**keys):
    return Generate.model_validate({"source": {"type": "shapes"}, "to": "out", **keys})


def test_the_default_is_the_paper_s():
    assert step().counts(158) == {"conversation": 58, "detail": 23, "reasoning": 77}
    assert sum(step().counts(1).values()) == 1


@pytest.mark.parametrize(
    ("types", "counts"),
    [
        ({"detail": 1}, {"conversation": 0, "detail": 1, "reasoning": 0}),
        ({"detail": 1.0}, {"conversation": 0, "detail": 10, "reasoning": 0}),
        ({"detail": 0.5, "reasoning": 0.5, "conversation": 0}, {"conversation": 0, "detail": 5, "reasoning": 5}),
        ({"conversation": 1, "detail": 1}, {"conversation": 1, "detail": 1, "reasoning": 0}),
    ],
)
def test_whole_numbers_are_answers_and_numbers_with_a_point_are_shares(types, counts):
    found = step(types=types)
    assert found.counts(10) == counts
    assert found.wanted == tuple(name for name, count in counts.items() if count)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"types": {"convo": 3}}, "there is no type 'convo'"),
        ({"types": {}}, "at least one type"),
        ({"types": {"detail": 0}}, "at least one type"),
        ({"types": {"detail": 0.5}}, "the shares sum to 0.5"),
        ({"types": {"detail": 0.5, "reasoning": 4}}, "mixed"),
        ({"types": {"detail": -1}}, "greater than or equal to 0"),
        ({"types": {"detail": 3}, "per_picture": 2}, "per_picture goes with shares"),
        ({"max_cost": 5}, "max_cost needs `price"),
        ({"judge": {"min_words": {"detail": 0}}}, "at least 1 word"),
        ({"judge": {"duplicates": "drop"}}, "match pattern"),
        ({"concurrency": 0}, "greater than 0"),
    ],
)
def test_what_is_wrong(keys, said):
    with pytest.raises(ValidationError, match=said):
        step(**keys)
