from __future__ import annotations

import itertools

import publishers
import pytest

from llava_kit.assemble.parts import build
from llava_kit.core.conversation import ImageFile, ImageSlot
from llava_kit.errors import DataError

QUESTION = "Which of these states is farthest north?"
OPTIONS = "Options: (A) West Virginia (B) Louisiana (C) Arizona (D) Oklahoma"
LECTURE = "Maps have four cardinal directions.\nNorth is up."  # its two spaces became one
SOLUTION = "West Virginia is farthest north."
ANSWER = "The answer is A."

ASKED = {
    "QCM": f"{QUESTION}\nContext: N/A\n{OPTIONS}",
    "CQM": f"Context: N/A\nQuestion: {QUESTION}\n{OPTIONS}",
    "QMC": f"{QUESTION}\n{OPTIONS}\nContext: N/A",
    "QCML": f"{QUESTION}\nContext: N/A\n{OPTIONS}\nBECAUSE: {LECTURE}",
    "QCME": f"{QUESTION}\nContext: N/A\n{OPTIONS}\nBECAUSE: {SOLUTION}",
    "QCMLE": f"{QUESTION}\nContext: N/A\n{OPTIONS}\nBECAUSE: {LECTURE} {SOLUTION}",
    "QCLM": f"{QUESTION}\nContext: N/A\nBECAUSE: {LECTURE}\n{OPTIONS}",
    "QCEM": f"{QUESTION}\nContext: N/A\nBECAUSE: {SOLUTION}\n{OPTIONS}",
    "QCLEM": f"{QUESTION}\nContext: N/A\nBECAUSE: {LECTURE} {SOLUTION}\n{OPTIONS}",
}
ANSWERED = {
    "A": ANSWER,
    "AL": f"{ANSWER} BECAUSE: {LECTURE}",
    "AE": f"{ANSWER} BECAUSE: {SOLUTION}",
    "ALE": f"{ANSWER} BECAUSE: {LECTURE} {SOLUTION}",
    "AEL": f"{ANSWER} BECAUSE: {SOLUTION} {LECTURE}",
    "LA": f"{LECTURE} {ANSWER}",
    "EA": f"{SOLUTION} {ANSWER}",
    "LEA": f"{LECTURE} {SOLUTION} {ANSWER}",
    "ELA": f"{SOLUTION} {LECTURE} {ANSWER}",
    "LAE": f"{LECTURE} {ANSWER} BECAUSE: {SOLUTION}",
    "LEPA": f"LECTURE: {LECTURE}\nSOLUTION: {SOLUTION}\n###\nANSWER: A.",
    "LPA": f"LECTURE: {LECTURE}\n###\nANSWER: A.",
}


def source(path, **options):
    return build("source", "scienceqa", path=str(path), **options)


def turns(sample) -> tuple[str, str]:
    return tuple(message.text for message in sample.conversation.messages)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    return publishers.scienceqa(tmp_path_factory.mktemp("scienceqa"))


def test_every_pattern(problems):
    """Reasons first or answer first, context first or question first: two halves of one option."""
    for asked, answered in itertools.product(ASKED, ANSWERED):
        sample = source(problems, format=f"{asked}-{answered}")[1]
        assert turns(sample) == (f"\n{ASKED[asked]}", ANSWERED[answered]), (asked, answered)


def test_with_and_without_a_picture(problems):
    plain, shown = source(problems)
    assert plain.id == "scienceqa/2"
    assert plain.images == ()
    # The space is the original's: it stands where the lecture would.
    assert turns(plain) == (
        "Would you find the word in the dictionary?\nContext: Guide words: stair - suit.\nOptions: (A) no (B) yes",
        " The answer is B.",
    )
    assert isinstance(shown.conversation.messages[0].parts[0], ImageSlot)
    assert shown.images == (ImageFile("images/train/1/image.png", str(problems.parent)),)
    assert plain.tags["source"] == "scienceqa"
    assert (plain.tags["answer"], shown.tags["subject"], shown.tags["grade"]) == ("B", "social science", "grade2")


@pytest.mark.parametrize(
    ("format", "answer"),
    [
        ("QCM-AL", "The answer is B."),
        ("QCM-ALE", "The answer is B."),
        ("QCM-LEPA", "###\nANSWER: B."),
        ("QCM-A", "The answer is B."),
    ],
)
def test_reasons_that_are_missing_leave_no_heading(problems, format, answer):
    assert turns(source(problems, format=format)[0])[1] == answer


def test_a_heading_of_the_question_without_its_reason(problems):
    assert turns(source(problems, format="QCMLE-A")[0])[0].endswith("(B) yes")


def test_the_letter_alone(problems):
    asked, answer = turns(source(problems, format="CQM-A", letter=True)[1])
    assert asked == f"\n{ASKED['CQM']}\nAnswer with the option's letter from the given choices directly."
    assert answer == "A"


def test_splits_pictures_and_captions(problems):
    (sample,) = source(problems, split="val")
    assert sample.images[0].name == "images/val/5/choice.png"
    everything = source(problems, split="trainval", picture="{id}/{image}")
    assert [one.id for one in everything] == ["scienceqa/1", "scienceqa/2", "scienceqa/5"]
    assert everything[0].images[0].name == "1/image.png"
    captions = publishers.write(problems.parent / "captions.json", {"captions": {"1": "a map", "5": "a brick wall"}})
    told = source(problems, split="trainval", captions=str(captions))
    assert "\nContext: a map\n" in turns(told[0])[0]
    assert "\nContext: Select the better answer. a brick wall\n" in turns(told[2])[0]


@pytest.mark.parametrize(
    "format", ["", "QCM", "QCM-", "QC-A", "QQCM-A", "QCM-LE", "QCM-AA", "QCM-LPEA", "QCMX-A", "qcm-lea", "QCM-PA-A"]
)
def test_patterns_that_are_none(problems, format):
    with pytest.raises(DataError, match="expected what is asked, a dash"):
        source(problems, format=format)


def test_what_is_wrong_with_the_splits(problems, tmp_path):
    with pytest.raises(DataError, match=r"has no split 'trian'; did you mean 'train'\?"):
        source(problems, split="trian")
    with pytest.raises(DataError, match="is an empty list"):
        source(problems, split="minival")
    other = publishers.write(tmp_path / "pid_splits.json", {"train": ["1", "77", "78"]})
    with pytest.raises(DataError, match=r"2 of its 3 ids \(77, 78, \.\.\.\) are not in"):
        source(problems, splits=str(other))
    with pytest.raises(DataError, match="one that answers no more: QCM-A"):
        source(problems, letter=True)
