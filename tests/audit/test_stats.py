"""Sources are counted exactly, whatever the number of processes, and what cannot be read is told."""

from __future__ import annotations

import builtins
import random
from collections import Counter

import pytest

from llava_kit.assemble.parts import build
from llava_kit.audit import stats, words
from llava_kit.audit.stats import ALL, MAX_GROUPS, OTHERS, Group, Input, compare, quantile
from llava_kit.audit.stats_page import as_dict, figures, render_page, telling_words, top_words
from llava_kit.core.conversation import Conversation, ImageBytes, ImagePixels, ImageSlot, Message, Sample
from llava_kit.core.source import DataSource
from llava_kit.errors import LlavaKitError, SampleError


def _draw():
    raise AssertionError("no pixel is needed for a size")


class Texts(DataSource):
    """Row i asks and answers what `rows[i]` says; a row that is None is broken."""

    def __init__(self, rows, sizes=((40, 30),)):
        self.rows, self.sizes = rows, sizes

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if self.rows[index] is None:
            raise SampleError("bad_row", "is broken", sample_id=str(index))
        source, *turns = self.rows[index]
        images = tuple(ImagePixels(_draw, size) for size in self.sizes)
        slots = tuple(ImageSlot(number) for number in range(len(images)))
        messages = [
            Message(("user", "assistant")[number % 2], (*(() if number else slots), text)) for number, text in enumerate(turns)
        ]
        return Sample(str(index), Conversation(tuple(messages)), images, {"source": source})

    def fingerprint(self):
        return "texts"


def rows(count, seed=0):
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        turns = [f"{'why ' * draw.randint(1, 5)}?" if turn % 2 == 0 else "a cat " * draw.randint(1, 9) for turn in range(2)]
        found.append((draw.choice("xyz"), *(turn.strip() for turn in turns * draw.randint(1, 3))))
    return found


def counted(source, **how):
    how.setdefault("workers", 0)
    return compare([Input("data", source, len(source))], **how)


def test_counts_are_those_of_the_rows():
    data = rows(100)
    group = counted(Texts(data, ((40, 30), (10, 20)))).mixtures[0].all
    assert group.samples == 100
    assert group.pictures == 200
    assert group.turns == Counter(len(row) - 1 for row in data)
    assert group.question_words == Counter(len(text.split()) for row in data for text in row[1::2])
    assert group.answer_words == Counter(len(text.split()) for row in data for text in row[2::2])
    assert (group.longest, group.aspects) == (Counter({40: 100, 20: 100}), Counter({1.33: 100, 0.5: 100}))
    assert group.words == Counter(word for row in data for text in row[2::2] for word in text.split())


def test_ingredients_add_up_to_the_whole():
    (mixture,) = counted(Texts(rows(100))).mixtures
    assert set(mixture.ingredients) == {"x", "y", "z"}
    whole = Group()
    for group in mixture.ingredients.values():
        whole.add(group)
    assert whole == mixture.all
    assert list(mixture.ingredients) == sorted(mixture.ingredients, key=lambda name: -mixture.ingredients[name].samples)


def test_two_processes_count_as_one_does(monkeypatch):
    monkeypatch.setattr(stats, "ROWS_AT_ONCE", 16)
    source = Texts(rows(100))
    assert counted(source, workers=2, seed=3, tag_rows=30) == counted(source, seed=3, tag_rows=30)


def test_rows_that_cannot_be_read_are_told_and_counted():
    data = rows(10)
    data[3] = data[7] = None
    comparison = counted(Texts(data))
    assert comparison.mixtures[0].bad == {"bad_row": 2}
    assert comparison.mixtures[0].all.samples == 8
    assert "data: 2 of 10 rows could not be read (bad_row 2)" in comparison.notes


def test_pictures_that_cannot_be_read_are_told():
    class Broken(Texts):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return Sample(sample.id, sample.conversation, (ImageBytes(b"no picture"),), sample.tags)

    assert "data: 4 of 4 pictures could not be read" in counted(Broken(rows(4))).notes
    assert counted(Broken(rows(4)), sizes=False, tag_rows=0).notes == []


def test_the_tagged_rows_follow_from_the_seed_and_are_told():
    source = Texts([("x", "Describe it.", f"The man holds a {'cup' * (number + 1)}.") for number in range(50)])
    one, again, other = (counted(source, tag_rows=5, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one.mixtures[0].all.tagged_rows == 5
    assert one.mixtures[0].all.verbs == {"hold": 5}
    assert one.mixtures[0].all.nouns != other.mixtures[0].all.nouns
    assert "verbs and nouns are those of a sample of rows (seed 1): data 5" in one.notes


def test_without_the_tagger_all_else_is_counted(monkeypatch):
    words._library.cache_clear()
    plain = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("textblob"):
            raise ImportError("No module named 'textblob'")
        return plain(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    comparison = counted(Texts(rows(5)))
    monkeypatch.undo()
    words._library.cache_clear()
    assert comparison.mixtures[0].all.samples == 5
    assert any("pip install 'llava-kit[generate]'" in note for note in comparison.notes)


def test_memory_is_bounded_by_words_and_ingredients(monkeypatch):
    monkeypatch.setattr(stats, "MAX_WORDS", 50)
    monkeypatch.setattr(stats, "ROWS_AT_ONCE", 10)
    data = [(f"source {number}", "why?", f"word{number} cat " * 3) for number in range(3 * MAX_GROUPS)]
    comparison = counted(Texts(data), tag_rows=0)
    (mixture,) = comparison.mixtures
    assert len(mixture.all.words) <= 2 * 50 + 10
    assert mixture.all.words["cat"] == 3 * len(data)
    assert len(mixture.groups) <= MAX_GROUPS + 2
    assert mixture.groups[OTHERS].samples == len(data) - MAX_GROUPS
    assert any("not all were counted" in note for note in comparison.notes)


def test_quantiles():
    assert [quantile({1: 5, 2: 4, 9: 1}, share) for share in (0, 0.5, 0.9, 0.91, 1)] == [1, 1, 2, 9, 9]
    assert quantile({}, 0.5) is None


def test_two_inputs_of_one_name():
    source = Texts(rows(2))
    with pytest.raises(LlavaKitError, match="two inputs are called 'a'; give them names"):
        compare([Input("a", source, 2), Input("a", source, 2)], workers=0)


def test_distances_and_the_words_that_part():
    first, second = Texts([("x", "q", "red cat")] * 3), Texts([("x", "q", "red dog")] * 3)
    comparison = compare([Input("one", first, 3), Input("two", second, 3)], workers=0)
    names, distances = comparison.distances()
    assert names == ["one", "two"]
    assert distances == [[0, 0.5], [0.5, 0]]
    assert telling_words(comparison) == {"one": ["cat"], "two": ["dog"]}
    told = as_dict(comparison)
    assert told["distance_of_answers_in_bits"]["one"] == {"one": 0.0, "two": 0.5}
    assert told["mixtures"][0]["groups"][ALL]["words"] == {"red": 3, "cat": 3}


def test_the_table_shows_only_what_was_counted():
    head, whole, *parts = figures(counted(Texts(rows(30), ()), tag_rows=0))
    assert "longer side" not in head
    assert "tokens" not in head
    assert whole[:2] == ["data", "30"]
    assert [row[0].strip() for row in parts] == sorted("xyz", key=lambda name: [row[0].strip() for row in parts].index(name))
    assert top_words(Group(words=Counter({"the": 50, "cat": 50}))) == [("cat", 500.0)]


def test_tokens_are_those_that_a_stage_counts():
    import torch

    from llava_kit.assemble.parts import assemble
    from llava_kit.recipe.load import load_recipe

    with torch.device("meta"):
        maker = assemble(load_recipe("quickstart", []), weights=False).examples()
    source = build("source", "shapes", size=20, split="test", task="instruct")
    group = counted(source, maker=maker, tag_rows=0).mixtures[0].all
    lengths = [maker.make(source[number]) for number in range(20)]
    assert group.tokens == Counter(example.length for example in lengths)
    assert group.taught == Counter(example.num_targets for example in lengths)


def test_the_page_shows_all_of_it_and_escapes_names():
    source = Texts([*rows(30), ("<u>x", "Describe it.", "The man holds a cup.")])
    page = render_page(compare([Input("<i>one", source, 31), Input("two", source, 31)], workers=0), "a & b")
    assert "<i>one" not in page
    assert "<u>x" not in page
    assert "&lt;i&gt;one" in page
    assert "&lt;u&gt;x" in page
    assert "<h1>a &amp; b</h1>" in page
    for heading in ("Words of an answer", "Turns of a sample", "Shape of a picture", "How far apart", "<title>hold cup: 1"):
        assert heading in page
    assert "http" not in page.replace("http://www.w3.org", ""), "nothing is fetched"
    assert "Tokens" not in page
