"""The dry run: what it counts is what is asked then, and nothing is left behind."""

import pytest

from llava_kit.datagen.estimate import estimate
from llava_kit.datagen.run import Work, generate


def quiet(*_):
    return None


def test_it_counts_what_will_be_asked(make_options, pictures, said, tmp_path):
    options = make_options(types={"detail": 4, "reasoning": 2}, price={"input": 1, "output": 2}, requests_per_minute=3)
    with Work(options, source=pictures(), teacher=said(), answers=tmp_path / "elsewhere.jsonl") as work:
        found = estimate(work, quiet)
    assert not (tmp_path / "out").exists()
    assert found.requests == {"detail": 4, "reasoning": 2}
    assert found.minutes == 2
    assert found.example is not None
    teacher = said(counted=False)
    options = make_options(types={"detail": 4, "reasoning": 2})
    result = generate(options, source=pictures(), teacher=teacher)
    assert len(teacher.asked) == 6
    assert result.input_tokens == pytest.approx(found.input_tokens, abs=6)
    assert found.likely is not None
    assert found.most is not None
    assert found.likely < found.most


def test_what_was_counted_makes_it_exact(make_options, pictures, said):
    generate(make_options(types={"detail": 3}, price={"input": 1, "output": 2}), source=pictures(), teacher=said())
    options = make_options(types={"detail": 6}, price={"input": 1, "output": 2})
    with Work(options, source=pictures(), teacher=said(), looking=True) as work:
        found = estimate(work, quiet)
    assert (found.known, found.requests) == (3, {"detail": 3})
    assert found.letters_per_token == pytest.approx(5, rel=0.01)
    result = generate(options, source=pictures(), teacher=said())
    assert found.spent is not None
    assert found.likely is not None
    assert result.cost == pytest.approx(found.spent + found.likely, rel=0.02)
