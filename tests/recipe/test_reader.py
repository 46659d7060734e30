"""The strict reader: what scalars mean, what is refused, and where it stands."""

import pytest

from llava_kit.errors import RecipeError
from llava_kit.recipe.reader import read_file, read_scalar, read_text, read_value
from llava_kit.recipe.tree import find, plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.0e-3", 1e-3),
        ("-2E3", -2000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("0", 0),
        ("-12", -12),
        ("+3", 3),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        (".inf", float("inf")),
        ("y", "y"),
        ("a1", "a1"),
        ("v1.5", "v1.5"),
        ("1e", "1e"),
        ("openai/clip-vit-large-patch14-336", "openai/clip-vit-large-patch14-336"),
    ],
)
def test_plain_scalars(text, value):
    assert read_scalar(text) == value
    assert type(read_scalar(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("no", "write false, or 'no' in quotes"),
        ("Yes", "write true, or 'Yes' in quotes"),
        ("off", "write false"),
        ("010", "write 8 or 10"),
        ("08", "write 8, or"),
        ("-010", "write -8 or -10"),
        ("0x1F", "write 31"),
        ("0o17", "write 15"),
        ("0b11", "write 3"),
        ("1_000", "write 1000"),
        ("1:30", "base 60"),
        ("2026-01-31", "a date"),
        ("1e999", "too large"),
    ],
)
def test_scalars_that_yaml_readers_disagree_about(text, hint):
    with pytest.raises(RecipeError, match=hint) as told:
        read_text(f"a:\n  b: [1, {text}]\n", "f.yaml")
    assert str(told.value).startswith("f.yaml:2: a.b.1: ")


@pytest.mark.parametrize("text", ["'no'", '"010"', "'1:30'", "'1e-4'", "''"])
def test_quotes_make_text(text):
    assert plain(read_text(f"a: {text}", "f")) == {"a": text.strip("'\"")}


def test_every_equal_key_is_told_with_both_lines():
    with pytest.raises(RecipeError) as told:
        read_text("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 2\n", "f.yaml")
    assert told.value.problems == [
        "f.yaml:5: b.c: the key is given twice in this block: line 3 and line 5",
        "f.yaml:6: a: the key is given twice in this block: line 1 and line 6",
    ]


def test_a_value_stands_on_the_line_of_its_key():
    root = read_text("a:\n  b:\n    - 1\n    -\n      c: 2\n", "f.yaml")
    assert [find(root, path).place.line for path in (("a",), ("a", "b"), ("a", "b", 0), ("a", "b", 1, "c"))] == [1, 2, 3, 5]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: &x 1", r"f.yaml:1: the anchor &x is not allowed"),
        ("a: 1\nb: *x", r"f.yaml:2: the alias \*x is not allowed"),
        ("a: !!python/object/apply:os.system [ls]", r"f.yaml:1: the tag .*python/object/apply:os.system.* is not allowed"),
        ("a: !!str 1", "the tag"),
        ("---\na: 1\n---\nb: 2", r"f.yaml:3: a second document"),
        ("? [a]\n: 1", "a key must be a plain text"),
        ("a: [1", "f.yaml:[12]: not valid YAML"),
        ("a: 1\n\tb: 2", "f.yaml:2: not valid YAML"),
        ("a: \x07", "not valid YAML"),
    ],
)
def test_refused(text, complaint):
    with pytest.raises(RecipeError, match=complaint):
        read_text(text, "f.yaml")


def test_files(tmp_path):
    path = tmp_path / "r.yaml"
    for data, complaint in [
        (b"", "found nothing"),
        (b"- a", "a recipe is a mapping of keys, found a list"),
        (b"a: 1\nb: \xff", r"r.yaml:2: not UTF-8 \(byte 0xff\)"),
        (b"#" * 1_000_001, "larger than 1,000,000 bytes"),
    ]:
        path.write_bytes(data)
        with pytest.raises(RecipeError, match=complaint):
            read_file(path)
    with pytest.raises(RecipeError, match="cannot be read"):
        read_file(tmp_path)
    path.write_bytes(b"\xef\xbb\xbfa: \xc3\xa4\r\nb: 1\r\n")
    assert plain(read_file(path)) == {"a": "ä", "b": 1}


def test_an_override_is_a_scalar_or_stands_in_brackets():
    for text, value in [("1e-4", 1e-4), ("[1, {a: b}]", [1, {"a": "b"}]), ("", None), ("some words", "some words")]:
        assert plain(read_value(text)) == value


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("a: b", "write {key: value}"), ("- a", "write {key"), ("[1", "is not a value"), ("no", "write false"), ("*x", "alias")],
)
def test_what_an_override_cannot_be(text, complaint):
    with pytest.raises(RecipeError, match=complaint):
        read_value(text)
