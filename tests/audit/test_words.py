"""Words, verbs and their nouns are found as a reader would, and distances are those of their formula."""

import math
import random
from collections import Counter

import pytest

from llava_kit.audit.words import TAGGED_LETTERS, base_form, divergence, tagged, telling, words_of


def test_words_are_lower_case_with_their_apostrophes_and_numbers():
    assert list(words_of("The man’s T-shirt, 1,5 m; don't!\nÜber 2")) == [
        "the",
        "man's",
        "t-shirt",
        "1,5",
        "m",
        "don't",
        "über",
        "2",
    ]


def test_the_divergence_is_0_for_the_same_and_1_for_strangers():
    assert divergence({"a": 1, "b": 3}, {"a": 2, "b": 6}) == 0
    assert divergence({"a": 1}, {"b": 7}) == 1
    assert math.isnan(divergence({}, {"a": 1}))


@pytest.mark.parametrize("seed", range(5))
def test_the_divergence_is_that_of_entropies(seed):
    draw = random.Random(seed)
    first, second = (Counter(draw.choices("abcdefgh", k=draw.randint(1, 60))) for _ in range(2))

    def entropy(shares):
        return -sum(share * math.log2(share) for share in shares if share)

    p, q = ({word: counts[word] / counts.total() for word in "abcdefgh"} for counts in (first, second))
    middle = [(p[word] + q[word]) / 2 for word in "abcdefgh"]
    expected = entropy(middle) - (entropy(p.values()) + entropy(q.values())) / 2
    assert divergence(first, second) == pytest.approx(expected, abs=1e-12)
    assert divergence(second, first) == pytest.approx(expected, abs=1e-12)


def test_telling_words_are_those_that_one_uses_more():
    assert telling({"cat": 5, "dog": 5, "the": 90}, {"dog": 5, "bus": 5}, 5) == ["cat"]
    assert telling({}, {"a": 1}, 5) == []


@pytest.mark.parametrize(
    ("sentence", "verb", "noun"),
    [
        ("The man in the picture is riding a brown horse.", "ride", "horse"),
        ("Describe the image.", "describe", "image"),
        ("Could you give me a list of ideas?", "give", "list"),
        ("What is the man doing?", "do", None),
        ("They are going to eat pizza.", "eat", "pizza"),
        ("Two dogs are sitting on a wooden bench and running.", "sit", None),
        ("He has eaten apples.", "eat", "apple"),
        ("The boy stopped the cars.", "stop", "car"),
        ("The man rides a horse.", "ride", "horse"),
        ("A cat.", None, None),
        ("yes", None, None),
    ],
)
def test_the_verb_of_a_sentence_and_its_noun(sentence, verb, noun):
    found = tagged(sentence)
    assert dict(found.verbs) == ({verb: 1} if verb else {})
    assert dict(found.pairs) == ({(verb, noun): 1} if noun else {})
    assert found.sentences == 1


def test_every_sentence_counts_up_to_a_length():
    found = tagged("The man holds a cup. " * 5)
    assert (found.sentences, found.pairs["hold", "cup"], found.nouns["man"]) == (5, 5, 5)
    assert tagged("The man holds a cup. " * 5000).sentences <= TAGGED_LETTERS / 20
    assert tagged("  ").sentences == 0


def test_verbs_as_a_dictionary_has_them():
    forms = "opening VBG open,dancing VBG dance,telling VBG tell,running VBG run,riding VBG ride,carries VBZ carry,"
    forms += "watches VBZ watch,uses VBZ use,placed VBN place,parked VBN park,stopped VBD stop,carried VBD carry,sat VBD sit"
    for line in forms.split(","):
        form, tag, base = line.split()
        assert base_form(form, tag) == base
    assert base_form("frobbing", "VBG") == "frobbing"
