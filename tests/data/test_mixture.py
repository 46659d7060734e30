"""Mixtures: what is taken, in which order, under which names, and that it is the same each time."""

import json
import pickle
from collections import Counter

import pytest

from llava_kit.assemble.parts import build_source
from llava_kit.core.source import DataSource
from llava_kit.data.mixture import MixtureSource, Share
from llava_kit.errors import DataError, RecipeError, SampleError
from llava_kit.recipe.blocks import Part


def shapes(size, **keys):
    return {"type": "shapes", "task": "captions", "size": size, **keys}


def mixture(seed=0, **of):
    return build_source(Part.model_validate({"type": "mixture", "seed": seed, "of": of}))


def ids(source):
    return [source[number].id for number in range(len(source))]


def test_ingredients_follow_one_another_and_parts_of_them_are_taken():
    mixed = mixture(
        a={"source": shapes(5)},
        b={"source": shapes(10, seed=1), "take": "first:25%"},
        c={"source": shapes(10, seed=2), "take": "end:2", "repeat": 2},
    )
    whole = {name: ids(build_source(Part.model_validate(shapes(10, seed=seed)))) for name, seed in (("b", 1), ("c", 2))}
    first = ids(build_source(Part.model_validate(shapes(5))))
    last = whole["c"][8:]
    assert ids(mixed) == [*first, *whole["b"][:3], *last, *(f"{name}#2" for name in last)]
    assert [mixed[number].tags["ingredient"] for number in (0, 5, 8)] == ["a", "b", "c"]
    assert mixed[0].tags["source"] == "a"
    assert [str(share) for share in mixed.shares][1:] == [
        "b: 3 of 10 samples (first)",
        "c: 2 of 10 samples (end), 2 times",
    ]


def test_a_random_part_is_drawn_by_seed_and_name_alone():
    part = {"source": shapes(1000), "take": "random:100"}
    drawn = ids(mixture(a=part))
    assert len(set(drawn)) == 100
    assert ids(mixture(z={"source": shapes(7)}, a=part))[7:] == drawn
    assert set(ids(mixture(seed=1, a=part))) != set(drawn)
    assert set(ids(mixture(b=part))) != set(drawn)
    # Every sample has the same chance: over many seeds each is drawn about equally often (mean 20, standard deviation 4.2).
    counts = Counter(
        name for seed in range(200) for name in ids(mixture(seed=seed, a={"source": shapes(100), "take": "random:10"}))
    )
    assert len(counts) == 100
    assert max(counts.values()) < 40


def test_a_mixture_of_mixtures_and_of_more_than_there_is():
    inner = {"type": "mixture", "of": {"x": {"source": shapes(4)}, "y": {"source": shapes(4, seed=5), "take": "first:99"}}}
    mixed = mixture(a={"source": inner, "take": "random:100%"})
    assert sorted(ids(mixed)) == sorted(ids(build_source(Part.model_validate(inner))))
    assert {mixed[number].tags["source"] for number in range(8)} == {"x", "y"}
    assert {mixed[number].tags["ingredient"] for number in range(8)} == {"a"}


def test_it_travels_to_workers_and_knows_when_it_changes(tmp_path):
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": n, **row}) + "\n" for n in range(3)))
    part = {"source": {"type": "llava_json", "path": str(tmp_path / "a.jsonl")}}
    mixed = mixture(a=part)
    assert ids(pickle.loads(pickle.dumps(mixed))) == ["0", "1", "2"]
    prints = {mixed.fingerprint(), mixture(a={**part, "repeat": 2}).fingerprint(), mixture(seed=1, a=part).fingerprint()}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": n, **row}) + "\n" for n in range(4)))
    prints.add(mixture(a=part).fingerprint())
    assert len(prints) == 4


class Bad(DataSource):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise SampleError("bad_row", "broken", sample_id="x")

    def fingerprint(self):
        return ""


def test_a_bad_sample_keeps_its_reason_and_its_place():
    mixed = MixtureSource({"a": Bad()}, [Share("a", "all", 2, 2, 2)], 0)
    with pytest.raises(SampleError, match="broken") as error:
        mixed[3]
    assert (error.value.reason, error.value.sample_id) == ("bad_row", "x#2")
    with pytest.raises(IndexError):
        mixed[4]


def test_mistakes_are_told_all_at_once():
    with pytest.raises(RecipeError) as error:
        mixture(a={"source": shapes(1), "take": "some", "repeat": 0}, b={"sorce": shapes(1)})
    told = "\n".join(error.value.problems)
    assert "of.a.take" in told
    assert "random:N" in told
    assert "of.a.repeat" in told
    assert "did you mean 'source'" in told


def test_all_sources_that_are_missing_are_told(tmp_path):
    gone = {name: {"source": {"type": "llava_json", "path": str(tmp_path / f"{name}.json")}} for name in ("one", "two")}
    with pytest.raises(DataError, match=r"^one: .*one\.json: cannot be read.*\ntwo: .*two\.json: cannot be read") as error:
        mixture(a={"source": shapes(1)}, **gone)
    assert error.value.exit_code == 3
