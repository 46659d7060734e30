"""The filter on arrays chooses what a direct reading of the paper's rule chooses."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_kit.captions.choose import Postings, chance, choose, key_of

WORDS = ("dog", "cat", "hat", "park", "tree", "car", "red car", "small dog", "old man", "blue sky")


def posted(captions: list[list[str]]) -> Postings:
    postings = Postings()
    for row, phrases in enumerate(captions):
        postings.add(row, phrases)
    return postings


def read_directly(captions: list[list[str]], least: int, most: int, seed: int) -> dict[int, str]:
    """Caption -> the phrase it was first taken for; each sentence of the paper is a line."""
    containing: dict[str, list[int]] = defaultdict(list)
    for number, phrases in enumerate(captions):
        for phrase in sorted(set(phrases) - {""}):
            containing[phrase].append(number)
    remaining = [phrase for phrase, numbers in containing.items() if len(numbers) >= least]
    pool: dict[int, str] = {}
    for phrase in sorted(remaining, key=lambda phrase: (len(containing[phrase]), key_of(phrase))):
        numbers = containing[phrase]
        if len(numbers) > most:
            numbers = random_subset(phrase, numbers, most, seed)
        for number in numbers:
            pool.setdefault(number, phrase)
    return pool


def random_subset(phrase: str, numbers: list[int], most: int, seed: int) -> list[int]:
    drawn = chance(seed, np.array([key_of(phrase)] * len(numbers), np.uint64), np.array(numbers))
    return sorted(numbers, key=lambda number: (drawn[numbers.index(number)], number))[:most]


captions = st.lists(st.lists(st.sampled_from([*WORDS, ""]), max_size=6), max_size=60)


@settings(max_examples=150, deadline=None)
@given(captions, st.integers(1, 6), st.integers(0, 12), st.integers(0, 2**40))
def test_it_chooses_what_a_direct_reading_chooses(captions, least, above, seed):
    most = least + above
    choice = choose(posted(captions), least=least, most=most, seed=seed)
    expected = read_directly(captions, least, most, seed)
    assert choice.captions.tolist() == sorted(expected)
    assert choice.keys.tolist() == [key_of(expected[number]) for number in sorted(expected)]
    said = [{phrase for phrase in phrases if phrase} for phrases in captions]
    frequency = {phrase: sum(phrase in phrases for phrases in said) for phrases in said for phrase in phrases}
    assert choice.frequency.tolist() == [frequency[expected[number]] for number in sorted(expected)]
    assert choice.num_phrases == len(frequency)
    assert choice.num_rare == sum(count < least for count in frequency.values())
    kept = [said[number] for number in expected]
    after = {phrase: count for phrase in frequency if (count := sum(phrase in phrases for phrases in kept))}
    assert choice.num_phrases_after == len(after)
    for spectrum, counts in ((choice.before, frequency), (choice.after, after)):
        assert dict(zip(*spectrum)) == {count: list(counts.values()).count(count) for count in set(counts.values())}
    assert [entry[1] for entry in choice.top] == sorted(frequency.values(), reverse=True)[:30]
    assert {(key, before, after_) for key, before, after_ in choice.top} == {
        (key_of(phrase), count, after.get(phrase, 0)) for phrase, count in frequency.items()
    }


def test_a_phrase_in_many_captions_gives_a_hundred_and_every_caption_has_its_chance():
    postings = posted([["sky"]] * 1000)
    taken = np.zeros(1000)
    for seed in range(400):
        chosen = choose(postings, least=3, most=100, seed=seed).captions
        assert len(chosen) == 100
        taken[chosen] += 1
    # 400 draws of a tenth: 40 each, with a standard deviation of 6.
    assert abs(taken.mean() - 40) < 1e-9
    assert taken.min() > 14
    assert taken.max() < 70
    assert 4.5 < taken.std() < 7.5


def test_captions_in_the_pool_already_count_neither_for_nor_against():
    """150 captions show a dog, 50 of them a rare hat each thrice: the hats are all in, and a hundred dogs out of all 150."""
    captions = [["dog", f"hat {number // 3}"] for number in range(51)] + [["dog"]] * 99
    choice = choose(posted(captions), least=3, most=100, seed=1)
    hats = set(range(51))
    assert hats <= set(choice.captions.tolist())
    dogs = set(random_subset("dog", list(range(150)), 100, 1))
    assert set(choice.captions.tolist()) == hats | dogs
    assert len(dogs - hats) < 99  # some of the hundred were in already
    assert choice.keys.tolist().count(key_of("dog")) == len(dogs - hats)


def test_seeds_differ_and_the_same_seed_does_not():
    postings = posted([["sky", f"thing {number % 40}"] for number in range(2000)])
    first, again, other = (choose(postings, least=3, most=20, seed=seed).captions.tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("captions", [[], [[]], [[""], []], [["once"], ["twice"], ["twice"]]])
def test_nothing_to_choose_is_nothing_chosen(captions):
    choice = choose(posted(captions), least=3, most=100, seed=0)
    assert choice.captions.tolist() == []
    assert choice.num_phrases_after == 0
    assert choice.num_rare == choice.num_phrases
