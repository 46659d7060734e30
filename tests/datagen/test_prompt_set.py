"""Prompts as files: the built-in ones, folders of a user's own, and every mistake in them."""

import pytest

from llava_kit.core.annotations import Annotations, Box
from llava_kit.core.teacher import RESPONSE_TYPES
from llava_kit.datagen.prompt_set import copy_prompts, load_prompts, shown_to, told_of
from llava_kit.errors import DataError

TOLD = Annotations(("A cat.", "A  cat\non a mat."), (Box("cat", 0.1, 0.25, 0.5004, 1.0), Box("mat", 0, 0.5, 1, 1)))


def test_captions_then_boxes_with_three_decimals():
    assert told_of(TOLD) == "A cat.\nA cat on a mat.\n\ncat: [0.100, 0.250, 0.500, 1.000]\nmat: [0.000, 0.500, 1.000, 1.000]"


def test_a_conversation_is_told_captions_alone():
    assert shown_to("conversation", TOLD) == Annotations(TOLD.captions)
    assert shown_to("detail", TOLD) == TOLD


def test_the_built_in_prompts():
    prompts = load_prompts()
    assert {name: len(prompt.examples) for name, prompt in prompts.types.items()} == {
        "conversation": 2,
        "detail": 3,
        "reasoning": 3,
    }
    assert len(prompts.questions) == len(set(prompts.questions)) == 16
    for type in RESPONSE_TYPES:
        messages = prompts.messages(type, TOLD)
        assert [message.role for message in messages] == [
            "system",
            *["user", "assistant"] * len(prompts.types[type].examples),
            "user",
        ]
        assert messages[-1].content == told_of(TOLD)
        for message in messages[1:-1:2]:
            assert ("[0." in message.content) == (type != "conversation")


def test_a_copy_is_the_same_and_an_edit_changes_one_type(tmp_path):
    assert copy_prompts(tmp_path / "mine") == 20
    before = load_prompts()
    assert load_prompts(tmp_path / "mine").digests == before.digests
    (tmp_path / "mine/detail/system.txt").write_text("Describe it.", encoding="utf-8")
    after = load_prompts(tmp_path / "mine").digests
    assert {name for name in RESPONSE_TYPES if after[name] != before.digests[name]} == {"detail"}
    with pytest.raises(DataError, match="not empty"):
        copy_prompts(tmp_path / "mine")


def test_every_mistake_of_a_folder_at_once(tmp_path):
    root = tmp_path / "mine"
    copy_prompts(root)
    (root / "conversaton").mkdir()
    (root / "conversation/1.caps.txt").write_text("A cat.\n\ncat: [0.100, 0.200, 0.300, 0.400]", encoding="utf-8")
    (root / "conversation/2.answer.txt").write_text("It is a cat.", encoding="utf-8")
    (root / "conversation/sistem.txt").write_text("x", encoding="utf-8")
    (root / "detail/system.txt").write_bytes(b"\xff\xfe")
    (root / "detail/1.answer.txt").unlink()
    (root / "detail/2.caps.txt").write_text("A cat.\n\ncat: [0.1, 0.2, 0.3, 0.4]", encoding="utf-8")
    (root / "detail/questions.txt").write_text("What?\nWhat?\n", encoding="utf-8")
    (root / "reasoning/system.txt").unlink()
    (root / "reasoning/3.answer.txt").write_text("  ", encoding="utf-8")
    with pytest.raises(DataError) as error:
        load_prompts(root)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("prompts: 10 mistakes")
    for said in (
        "did you mean 'conversation'?",
        "conversation/1.caps.txt: holds boxes",
        "conversation/2.answer.txt: block 1 begins with",
        "sistem.txt: is no file of a prompt; did you mean 'system.txt'?",
        "detail/system.txt: byte 0 is not UTF-8",
        "detail/1.answer.txt: is missing",
        "three decimals",
        "stands there twice",
        "reasoning/system.txt: is missing",
        "reasoning/3.answer.txt: is empty",
    ):
        assert any(said in line for line in lines), said


def test_a_type_that_is_not_asked_for_may_be_missing(tmp_path):
    copy_prompts(tmp_path / "mine")
    for path in (tmp_path / "mine/reasoning").iterdir():
        path.unlink()
    (tmp_path / "mine/reasoning").rmdir()
    assert set(load_prompts(tmp_path / "mine", ["detail"]).types) == {"detail"}
    with pytest.raises(DataError, match="reasoning: is missing"):
        load_prompts(tmp_path / "mine")
    with pytest.raises(DataError, match="--copy-prompts"):
        load_prompts(tmp_path / "nowhere")
