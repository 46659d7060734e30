"""Trees laid over one another, and how problems are told."""

from llava_kit.recipe.reader import read_text
from llava_kit.recipe.tree import MAX_TOLD, Place, Problem, dotted, laid_over, leaves, place_of, plain, told


def tree(text, source="f"):
    return read_text(text, source)


def test_mappings_merge_and_all_else_is_replaced():
    base = tree("{a: {b: 1, c: [1, 2]}, d: {e: 1}}")
    over = tree("{a: {c: [3]}, d: 4, f: {g: 1}}")
    assert plain(laid_over(base, over)) == {"a": {"b": 1, "c": [3]}, "d": 4, "f": {"g": 1}}
    assert plain(base) == {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}


def test_a_block_whose_type_differs_is_replaced_whole():
    base = tree("{type: clip, checkpoint: x}")
    assert plain(laid_over(base, tree("{type: siglip}"))) == {"type": "siglip"}
    assert plain(laid_over(base, tree("{type: clip, layer: 1}"))) == {"type": "clip", "checkpoint": "x", "layer": 1}
    assert plain(laid_over(base, tree("{layer: 1}"))) == {"type": "clip", "checkpoint": "x", "layer": 1}


def test_each_value_keeps_its_own_place():
    merged = laid_over(tree("a:\n  b: 1\n  c: 2\n", "base"), tree("x: 1\na:\n  c: 3\n", "over"))
    assert {dotted(path): (node.place.source, node.place.line) for path, node in leaves(merged)} == {
        "a.b": ("base", 2),
        "a.c": ("over", 3),
        "x": ("over", 1),
    }
    assert place_of(merged, ("a", "missing")) == Place("over", 2)


def test_problems_are_told_in_order_once_and_not_without_end():
    far, near = Problem(Place("f", 9), ("a",), "m"), Problem(Place("f", 2), (), "n")
    override = Problem(Place("override"), ("a", "b", 0), "o")
    assert told([far, near, far, override]) == ["f:2: n", "f:9: a: m", "override a.b.0: o"]
    many = told([Problem(Place("f", line), ("a",), "m") for line in range(200)])
    assert len(many) == MAX_TOLD + 1
    assert many[-1] == "... and 150 more problems"
    assert len(dotted(("k" * 10_000,))) == 80
