"""Answers in exactly the form that was asked for."""

import pytest

from llava_kit.datagen.parse import Rejected, parse

ONE = "Question:\nWhat is it?\n===\nAnswer:\nA cat.\n===\n"


def test_blocks_become_pairs():
    assert parse(ONE + "\n" + ONE.replace("cat", "dog"), "conversation") == (
        ("What is it?", "A cat."),
        ("What is it?", "A dog."),
    )


def test_the_last_rule_may_be_missing_and_text_may_follow_its_label():
    assert parse("Question: What is it?\n===\nAnswer: A cat.\nOn a mat.", "reasoning") == (
        ("What is it?", "A cat.\nOn a mat."),
    )


def test_windows_line_ends_and_spaces():
    assert parse(ONE.replace("\n", "  \r\n"), "reasoning") == (("What is it?", "A cat."),)


def test_a_description_is_text_alone():
    assert parse(" A cat.\n\nA mat. ", "detail") == (("", "A cat.\n\nA mat."),)
    plain = "A certainly old cat - grey, 12 years - lies here: on a mat.\n2 mice are near."
    assert parse(plain, "detail") == (("", plain),)


@pytest.mark.parametrize(
    ("text", "type", "reason"),
    [
        ("  \n ", "detail", "empty"),
        ("", "conversation", "empty"),
        (ONE, "detail", "wrong_form"),
        ("A cat.\n===", "detail", "wrong_form"),
        ("A room.\n\n- A cat\n- A mat", "detail", "wrong_form"),
        ("## Overview\nA cat on a mat.", "detail", "wrong_form"),
        ("A room.\n1. A cat on a mat.", "detail", "wrong_form"),
        ("**A room** with a cat.", "detail", "wrong_form"),
        ("Certainly! A cat lies on a mat.", "detail", "wrong_form"),
        ("Here is what can be seen:\nA cat lies on a mat.", "detail", "wrong_form"),
        ("Sure, here you are!\n" + ONE, "conversation", "wrong_form"),
        (ONE + ONE, "reasoning", "wrong_form"),
        ("Question:\nWhat?\n===", "reasoning", "wrong_form"),
        ("Question:\nWhat?\nAnswer:\nA cat.", "reasoning", "wrong_form"),
        ("Answer:\nA cat.\n===\nQuestion:\nWhat?\n===", "conversation", "wrong_form"),
        ("Question:\n\n===\nAnswer:\nA cat.\n===", "conversation", "wrong_form"),
        ("A: what? B: a cat", "conversation", "wrong_form"),
        ("===", "conversation", "wrong_form"),
        ("===\n===\n===", "reasoning", "wrong_form"),
    ],
)
def test_all_else_is_not_taken(text, type, reason):
    with pytest.raises(Rejected) as error:
        parse(text, type)
    assert error.value.reason == reason
    assert error.value.what
