"""Answers on disk by the key of their request."""

import pytest

from llava_kit.core.annotations import Annotations
from llava_kit.core.teacher import ChatMessage, TeacherAnswer, TeacherRequest
from llava_kit.datagen.answers import Answers
from llava_kit.errors import DataError


def request(number, letters=400):
    return TeacherRequest(f"{number:032x}", "detail", (ChatMessage("user", "x" * letters),), Annotations(), 0)


def test_what_was_added_is_there_the_next_time(tmp_path):
    path = tmp_path / "answers.jsonl"
    texts = ["one", "Zwölf Äpfel \N{SNOWMAN}\nand a line", "\ud800 half a letter", ""]
    with Answers(path) as answers:
        for number, text in enumerate(texts):
            answers.add(request(number), TeacherAnswer(text, "m", "stop", 100, 10), at=1.5)
            assert answers.get(f"{number:032x}") == TeacherAnswer(text, "m", "stop", 100, 10)
    with Answers(path) as answers:
        assert len(answers) == 4
        assert [answers.get(f"{number:032x}").text for number in range(4)] == texts
        assert answers.get("f" * 32) is None
        assert (answers.input_tokens, answers.output_tokens, answers.estimated) == (400, 40, 0)
        assert answers.letters_per_token == 4
        assert answers.output_mean == 10


def test_tokens_that_nobody_counted_are_taken_from_letters(tmp_path):
    with Answers(tmp_path / "answers.jsonl") as answers:
        assert answers.output_mean is None
        answers.add(request(1), TeacherAnswer("y" * 40, "m"))
        assert (answers.input_tokens, answers.output_tokens, answers.estimated) == (100, 10, 1)
        assert answers.letters_per_token == 4


def test_an_entry_is_taken_in_once(tmp_path):
    with Answers(tmp_path / "a.jsonl") as answers:
        answers.add(request(1), TeacherAnswer("first", "m", "stop", 5, 5))
        answers.add(request(1), TeacherAnswer("second", "m", "stop", 5, 5))
        answer = answers.get(f"{1:032x}")
        assert answer is not None
        assert answer.text == "first"
        assert answers.input_tokens == 5
    assert (tmp_path / "a.jsonl").read_text().count("\n") == 2


def test_one_side_that_nobody_counted_is_taken_from_letters(tmp_path):
    with Answers(tmp_path / "answers.jsonl") as answers:
        answers.add(request(1), TeacherAnswer("b" * 40, "m", "stop", 0, 7))
        assert (answers.input_tokens, answers.output_tokens, answers.estimated) == (100, 7, 1)
        assert answers.letters_per_token == 4.0


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    with Answers(path) as answers:
        answers.add(request(1), TeacherAnswer("text", "m"))
    whole = path.read_bytes()
    for damage in (b"\0" * 30 + b"\n", b"[]\n", b'{"key": "00"}\n'):
        path.write_bytes(whole + damage)
        with pytest.raises(DataError, match=r"answers\.jsonl:3: is damaged.*sed -i 3d"):
            Answers(path)
    path.write_bytes(whole)
    with Answers(path) as answers:
        assert len(answers) == 1
