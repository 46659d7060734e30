"""What a person is told who names the wrong file of a question set, half of it, or one that is broken."""

from __future__ import annotations

import contextlib
import json
import random
import re

import publishers
import pytest

from llava_kit.assemble.parts import build
from llava_kit.errors import DataError, SampleError


def source(name, path, **options):
    return build("source", name, path=str(path), **options)


def change(path, edit):
    """Rewrites a JSON file."""
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))
    return path


def test_questions_without_their_answers(tmp_path):
    path = publishers.vqav2(tmp_path)
    (tmp_path / "v2_mscoco_train2014_annotations.json").rename(tmp_path / "answers.json")
    with pytest.raises(
        DataError,
        match=r"has no answers, and .*v2_mscoco_train2014_annotations.json is not beside it; name it with `annotations`",
    ):
        source("vqav2", path)
    assert len(source("vqav2", path, annotations=str(tmp_path / "answers.json"))) == 2
    with pytest.raises(DataError, match=r"nowhere.json: cannot be read: No such file"):
        source("vqav2", path, annotations=str(tmp_path / "nowhere.json"))


def test_a_test_split_has_no_answers_to_learn(tmp_path):
    path = publishers.write(
        tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json",
        publishers.vqa_questions([(262144, 262144000, "Is it?")], "test2015"),
    )
    with pytest.raises(DataError, match="answers for 'test2015' are not published; name the questions of train2014 or val2014"):
        source("vqav2", path)


@pytest.mark.parametrize(
    ("name", "key"),
    [("gqa", "answer"), ("textvqa", "answers"), ("docvqa", "answers"), ("aokvqa", "correct_choice_idx"), ("textcaps", None)],
)
def test_splits_without_answers(tmp_path, name, key):
    path = publishers.ALL[name](tmp_path)

    def without(value):
        rows = value.values() if name == "gqa" else value if isinstance(value, list) else value["data"]
        for row in rows:
            for one in [key] if key else ["caption_str", "reference_strs"]:
                del row[one]

    change(path, without)
    with pytest.raises(DataError, match=r"its questions have no answers .* name a split with answers"):
        source(name, path)


def test_answers_of_another_split(tmp_path):
    path = publishers.vqav2(tmp_path)
    answers = tmp_path / "v2_mscoco_train2014_annotations.json"

    def others(value):
        value["data_subtype"] = "val2014"
        for row in value["annotations"][1:]:
            row["question_id"] += 7_000_000

    change(answers, others)
    with pytest.raises(DataError) as told:
        source("vqav2", path)
    assert re.search(
        r"has no answer to 4 of the 5 questions .* \(ids 458752000, 262146000, 458752001, \.\.\.\)", str(told.value)
    )
    assert "it is of 'val2014', they are of 'train2014'" in str(told.value)
    change(answers, lambda value: value["annotations"][0].pop("question_id"))
    with pytest.raises(DataError, match="row 0 has no `question_id` that is a whole number"):
        source("vqav2", path)


def test_the_file_of_answers_in_the_place_of_the_questions(tmp_path):
    publishers.vqav2(tmp_path)
    with pytest.raises(DataError, match=r"is a file of answers; expected the questions \(v2_OpenEnded_.*\) here, and this as"):
        source("vqav2", tmp_path / "v2_mscoco_train2014_annotations.json")
    words = publishers.rosetta(tmp_path)
    with pytest.raises(DataError, match=r"is a file of OCR tokens; expected TextVQA_0.5.1_train.json here, and this as `ocr`"):
        source("textvqa", words)


@pytest.mark.parametrize(
    ("name", "given"),
    [("gqa", "ocr_vqa"), ("aokvqa", "chartqa"), ("vqav2", "gqa"), ("textvqa", "docvqa"), ("scienceqa", "gqa")],
)
def test_another_publishers_file(tmp_path, name, given):
    path = publishers.ALL[given](tmp_path)
    with pytest.raises(DataError, match=f"looks like a file of the source '{given}'; expected .* of '?{name}|ScienceQA"):
        source(name, path)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("gqa", {"a": {"b": 1}}, r"first row has the keys 'b'; expected 'imageId', 'question' too"),
        ("chartqa", [{"imgname": "1.png", "quary": "?"}], r"expected 'query' too.* \(did you mean 'quary'\?\)"),
        ("textvqa", {"date": []}, "has no list 'data'; its lists are 'date'; expected the file that is published as TextVQA"),
        ("dvqa", [], "holds no questions"),
        ("aokvqa", "text", "expected the file that is published as aokvqa_v1p0_train.json"),
        ("gqa", [1], "expected the file that is published as train_balanced_questions.json"),
        ("scienceqa", {"1": {"a": 1}}, "its members have no question and choices"),
    ],
)
def test_files_of_nobody(tmp_path, name, value, told):
    with pytest.raises(DataError, match=told):
        source(name, publishers.write(tmp_path / "file.json", value))


@pytest.mark.parametrize("name", publishers.ALL)
def test_files_that_are_not_there(tmp_path, name):
    with pytest.raises(DataError, match=r"nowhere|cannot be read"):
        source(name, tmp_path / "nowhere.json")


def test_an_empty_folder_of_diagrams(tmp_path):
    with pytest.raises(DataError, match=r"holds no questions; expected files such as 0.png.json"):
        source("ai2d", tmp_path)


def test_nothing_of_the_wanted_split(tmp_path):
    path = publishers.ocr_vqa(tmp_path)
    with pytest.raises(DataError, match="has no question that is wanted; look at the options"):
        source("ocr_vqa", path, split="val")


def test_words_of_other_pictures(tmp_path):
    path, words = publishers.textvqa(tmp_path), publishers.rosetta(tmp_path, {"0054c91397f2fe05": ["A"]})
    with pytest.raises(DataError, match=r"has no words of 1 of the 2 pictures .* \(005635e119b9f32f, \.\.\.\); .* same split"):
        source("textvqa", path, ocr=str(words))
    with pytest.raises(DataError, match=r"expected TextVQA_Rosetta_OCR"):
        source("textvqa", path, ocr=str(path))


def test_a_name_of_pictures_that_no_row_can_fill(tmp_path):
    path = publishers.gqa(tmp_path)
    with pytest.raises(
        DataError, match=r"picture: '\{image_id\}.jpg': a row of .* has no 'image_id'; did you mean 'imageId'\?"
    ):
        source("gqa", path, picture="{image_id}.jpg")
    with pytest.raises(SampleError, match="its 'imageId' is 'n1'; expected a number"):
        source("gqa", publishers.gqa(tmp_path, [("n1", "?", "yes")]), picture="{imageId:012d}.jpg")[0]


@pytest.mark.parametrize(
    ("name", "edit", "reason", "told"),
    [
        ("gqa", lambda rows: rows["02930153"].update(question=None), "bad_row", "its question is nothing; expected text"),
        ("gqa", lambda rows: rows["02930153"].update(answer=""), "empty_answer", "question '02930153' has no answer"),
        ("gqa", lambda rows: rows["02930153"].update(answer=["yes"]), "bad_row", "its answer is a list; expected text"),
        ("gqa", lambda rows: rows["02930153"].pop("imageId"), "bad_row", "row 1 has no 'imageId'"),
        ("aokvqa", lambda rows: rows[2].update(correct_choice_idx=4), "bad_row", "right is 4 of 4 choices"),
        ("aokvqa", lambda rows: rows[2].update(choices="ABCD"), "bad_row", "choices that are a str"),
        ("ocr_vqa", lambda rows: rows["0153350591"]["answers"].clear(), "bad_row", "has 1 questions and 0 answers"),
    ],
)
def test_a_bad_row_spoils_its_conversation_alone(tmp_path, name, edit, reason, told):
    path = change(publishers.ALL[name](tmp_path), edit)
    found = source(name, path)
    good, errors = 0, []
    for row in range(len(found)):
        try:
            assert found[row].conversation.messages
            good += 1
        except SampleError as error:
            errors.append(error)
    assert good
    assert [error.reason for error in errors] == [reason]
    for error in errors:
        assert error.sample_id
        assert told in error.message


def test_a_problem_that_is_broken(tmp_path):
    path = publishers.scienceqa(tmp_path)
    for edit, told in (
        (lambda rows: rows["1"].update(answer=9), "its answer is 9 of 4 choices"),
        (lambda rows: rows["1"].update(choices=[]), "expected a list of two to 10"),
        (lambda rows: rows["1"].pop("answer"), "a problem has no 'answer'"),
        (lambda rows: rows["1"].update(question=3.5, choices=["a", None], answer=0), "its choice is nothing"),
    ):
        found = source("scienceqa", change(publishers.scienceqa(tmp_path), edit))
        assert found[0].id == "scienceqa/2"
        with pytest.raises(SampleError, match=told) as caught:
            found[1]
        assert caught.value.sample_id == "scienceqa/1"
    assert len(source("scienceqa", path)) == 2


def test_a_file_that_breaks_off(tmp_path):
    path = publishers.gqa(tmp_path)
    path.write_text(path.read_text()[:-400])
    with pytest.raises(DataError, match=r"breaks off.*expected the file that is published as train_balanced"):
        source("gqa", path)


def leaves(value, path=()):
    """Where the values of JSON stand."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in entries:
        yield from leaves(one, (*path, key))


@pytest.mark.parametrize("name", publishers.ALL)
def test_no_damage_raises_anything_else(tmp_path, name):
    """A value of another kind in any place of any of the files: a good sample, or an error of ours that says which."""
    publishers.rosetta(tmp_path)
    path = publishers.ALL[name](tmp_path)
    ocr = {"ocr": str(tmp_path / "TextVQA_Rosetta_OCR_v0.2_train.json")} if name in ("textvqa", "textcaps") else {}
    chance = random.Random(0)
    files, told = sorted(tmp_path.rglob("*.json")), []
    for _ in range(25):
        file = chance.choice(files)
        text = file.read_text()
        value = json.loads(text)
        *above, last = chance.choice([place for place in leaves(value) if place])
        holder = value
        for key in above:
            holder = holder[key]
        holder[last] = chance.choice([None, "", "x", 7, -1, 0.5, True, [], {}, [[]], ["a", None], {"a": 1}, "\ud800", 10**30])
        file.write_text(json.dumps(value))
        try:
            found = source(name, path, **ocr)
            for number in range(len(found)):
                with contextlib.suppress(SampleError):
                    assert found[number].conversation.messages
        except DataError as error:
            told.append(str(error))
        file.write_text(text)
    assert all(str(tmp_path) in one for one in told)
