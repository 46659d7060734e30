"""Validation errors in a recipe writer's words."""

from typing import Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from llava_kit.core.hookspecs import Options
from llava_kit.recipe.explain import explain, names_at
from llava_kit.recipe.reader import read_text
from llava_kit.recipe.schema import Recipe
from llava_kit.recipe.tree import plain


class Inner(Options):
    depth: int = Field(1, ge=1, lt=10)


class Example(Options):
    name: str = "x"
    count: int = 1
    rate: float = 1.0
    flag: bool = False
    style: Literal["plain", "fancy"] = "plain"
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    by_name: dict[str, Inner] | None = None
    size: int | tuple[int, int] = 1
    either: Inner | str | None = None
    needed: int


def problems(text, model=Example, needed=True):
    tree = read_text(text + ("\nneeded: 1" if needed else ""), "f")
    with pytest.raises(ValidationError) as error:
        model.model_validate(plain(tree))
    return [str(problem) for problem in explain(error.value, model, tree)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: 3", "f:1: name: expected text, found 3; write text in quotes"),
        ("name: true", "f:1: name: expected text, found true; write text in quotes"),
        ("name: [a]", "f:1: name: expected text, found a list"),
        ("count: a", "f:1: count: expected a whole number, found 'a'"),
        ("count: 1.5", "f:1: count: expected a whole number, found 1.5"),
        ("count: null", "f:1: count: expected a whole number, found null"),
        ("rate: fast", "f:1: rate: expected a number, found 'fast'"),
        ("flag: maybe", "f:1: flag: expected true or false, found 'maybe'"),
        ("style: fancey", "f:1: style: expected 'plain' or 'fancy', found 'fancey'; did you mean 'fancy'?"),
        ("style: {a: 1}", "f:1: style: expected 'plain' or 'fancy', found a block"),
        ("inner: {depth: 0}", "f:1: inner.depth: must be at least 1, found 0"),
        ("inner: {depth: 10}", "f:1: inner.depth: must be less than 10, found 10"),
        ("inner: 3", "f:1: inner: expected a block of keys, found 3"),
        ("inner: {dept: 3}", "f:1: inner.dept: unknown key; did you mean 'depth'?"),
        ("several: [{depth: 1}, {detph: 1}]", "f:1: several.1.detph: unknown key; did you mean 'depth'?"),
        ("by_name: {a: {detph: 1}}", "f:1: by_name.a.detph: unknown key; did you mean 'depth'?"),
        ("size: wide", "f:1: size: expected a whole number or a list, found 'wide'"),
        ("size: [1, b]", "f:1: size.1: expected a whole number, found 'b'"),
        ("either: 3", "f:1: either: expected a block of keys or text, found 3"),
        ("either: {depht: 1}", "f:1: either.depht: unknown key; did you mean 'depth'?"),
        (f"name: [{'x' * 500}]", "f:1: name: expected text, found a list"),
        (f"rate: {'x' * 500}", "f:1: rate: expected a number, found '" + "x" * 56 + "..."),
    ],
)
def test_messages(text, expected):
    assert problems(text) == [expected]


def test_a_missing_key_is_told_at_its_block():
    assert problems("name: a", needed=False) == ["f:1: needed: this key is missing"]


def test_a_key_that_was_only_misspelt_is_not_told_as_missing_too():
    assert problems("neded: 1", needed=False) == ["f:1: neded: unknown key; did you mean 'needed'?"]


def test_all_at_once():
    assert len(problems("name: 1\ncount: a\nrate: b\nstyle: c\nunheard_of: d", needed=False)) == 6


def test_what_a_validator_of_the_author_says():
    class Picky(Options):
        size: int

        @field_validator("size")
        @classmethod
        def _even(cls, value):
            if value % 2:
                raise ValueError("must be even")
            return value

    assert problems("size: 3", Picky, needed=False) == ["f:1: size: must be even (found 3)"]


def test_names_at():
    assert "name" in names_at(Recipe, ())
    assert names_at(Recipe, ("stages", "any", "train", "connector")) == ["lr", "weight_decay"]
    assert "validate" in names_at(Recipe, ("stages", "any"))
    assert "validate_on" not in names_at(Recipe, ("stages", "any"))
    assert names_at(Example, ("several", 3)) == ["depth"]
    assert names_at(Example, ("name", "x")) == []
