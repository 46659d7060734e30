from __future__ import annotations

import json
import pickle

import publishers
import pytest
from PIL import Image

from llava_kit.assemble.parts import build
from llava_kit.core.conversation import ImageFile, ImageSlot, Sample
from llava_kit.errors import SampleError
from llava_kit.image.reader import picture_size
from llava_kit.store.row import row_of

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
CAPTION = "Provide a one-sentence caption for the provided image."


def source(name, path, **options):
    return build("source", name, path=str(path), **options)


def text(sample: Sample) -> str:
    """The conversation as LLaVA's file would say it."""
    said = []
    for message in sample.conversation.messages:
        parts = "".join("<image>" if isinstance(part, ImageSlot) else part for part in message.parts)
        said.append(f"{'H' if message.role == 'user' else 'G'}: {parts}")
    return "\n".join(said)


def path_of(sample: Sample) -> str:
    (picture,) = sample.images
    assert isinstance(picture, ImageFile)
    return picture.path


def test_vqav2(tmp_path):
    """Answers lie in another file and in another order; a question that was asked twice keeps its first answer."""
    found = source("vqav2", publishers.vqav2(tmp_path))
    assert [sample.id for sample in found] == ["vqav2/458752", "vqav2/262146"]
    assert text(found[0]) == (
        f"H: <image>\nWhat is this photo taken looking through?\n{SHORT}\nG: Net\n"
        "H: What position is this man playing?\nG: Pitcher\n"
        "H: Is he a pitcher?\nG: Yes"
    )
    assert text(found[1]) == f"H: <image>\nWhat color is the snow?\n{SHORT}\nG: White"
    assert found[0].images == (ImageFile("train2014/COCO_train2014_000000458752.jpg", str(tmp_path)),)
    assert found[0].tags == {"source": "vqav2", "question_ids": ["458752000", "458752001", "458752002"]}


def test_a_question_a_row(tmp_path):
    path = publishers.vqav2(tmp_path)
    found = source("vqav2", path, merge=False, answers="as_written", picture="train2017/{image_id:012d}.jpg")
    assert [sample.id for sample in found] == [f"vqav2/{id}" for id in (458752000, 262146000, 458752001, 458752002, 458752003)]
    assert text(found[4]) == f"H: <image>\nWhat position is this man playing?\n{SHORT}\nG: pitching"
    assert path_of(found[1]) == "train2017/000000262146.jpg"


@pytest.mark.parametrize(("prompt", "times"), [("first", [1, 0, 0]), ("every", [1, 1, 1]), ("never", [0, 0, 0])])
def test_the_turns_that_ask_for_a_short_answer(tmp_path, prompt, times):
    sample = source("vqav2", publishers.vqav2(tmp_path), prompt=prompt)[0]
    assert [message.text.count(SHORT) for message in sample.conversation.messages[::2]] == times


def test_okvqa(tmp_path):
    found = source("okvqa", publishers.okvqa(tmp_path))
    assert text(found[0]) == f"H: <image>\nWhat is the hairstyle of the blond called?\n{SHORT}\nG: Pony tail"
    assert path_of(found[1]) == "train2014/COCO_train2014_000000081721.jpg"


def test_gqa(tmp_path):
    path = publishers.gqa(tmp_path)
    found = source("gqa", path)
    assert text(found[0]) == f"H: <image>\nIs the sky dark?\n{SHORT}\nG: Yes\nH: Is that pipe red?\nG: No"
    assert path_of(found[0]) == "images/2354786.jpg"
    assert text(source("gqa", path, sentences=True)[1]) == "H: <image>\nWhat is on the white wall?\nG: Pipe, it is so."
    assert [sample.id for sample in source("gqa", path, merge=False)] == ["gqa/02930152", "gqa/02930153", "gqa/02930154"]


def test_aokvqa_has_each_order_of_choices_once(tmp_path):
    found = source("aokvqa", publishers.aokvqa(tmp_path))
    assert [sample.id for sample in found] == [
        *(f"aokvqa/299207{turn}" for turn in ("", "#1", "#2", "#3")),
        *(f"aokvqa/461751{turn}" for turn in ("", "#1", "#2", "#3")),
    ]
    assert text(found[1]) == (
        f"H: <image>\nWhat is the man by the bags awaiting?\nA. train\nB. delivery\nC. cab\nD. skateboarder\n{LETTER}\nG: C\n"
        "H: Where does this man eat before getting picked up?\n"
        f"A. office\nB. train station\nC. restaurant\nD. outside\n{LETTER}\nG: D"
    )
    assert path_of(found[0]) == "train2017/000000299207.jpg"
    for rows in (range(4), range(4, 8)):
        answers = [[message.text for message in found[row].conversation.messages[1::2]] for row in rows]
        for letters in zip(*answers):
            assert sorted(letters) == list("ABCD")


def test_aokvqa_in_other_forms(tmp_path):
    path = publishers.aokvqa(tmp_path)
    assert len(source("aokvqa", path, orders="published")) == 2
    assert len(source("aokvqa", path, merge=False)) == 12
    direct = source("aokvqa", path, direct=True)
    assert len(direct) == 2
    assert text(direct[1]) == f"H: <image>\nWhat is in the motorcyclist's mouth?\n{SHORT}\nG: ride"


def test_ocr_vqa(tmp_path):
    path = publishers.ocr_vqa(tmp_path)
    found = source("ocr_vqa", path)
    assert [sample.id for sample in found] == ["ocr_vqa/140031996X", "ocr_vqa/0153350591"]
    assert text(found[0]) == (
        f"H: <image>\nWho is the author of this book?\n{SHORT}\nG: H. Jackson Brown\n"
        "H: What is the title of this book?\nG: Life's Little Instruction Book\n"
        "H: Is this a comedy book?\nG: No"
    )
    assert [path_of(sample) for sample in found] == ["images/140031996X.jpg", "images/0153350591.gif"]
    assert [sample.id for sample in source("ocr_vqa", path, split="test")] == ["ocr_vqa/761183272"]
    assert len(source("ocr_vqa", path, split="all", merge=False)) == 5
    assert path_of(source("ocr_vqa", path, picture="ocr_vqa/images/{key}.jpg")[1]) == "ocr_vqa/images/0153350591.jpg"


def test_textvqa_with_words_from_the_picture(tmp_path):
    path, words = publishers.textvqa(tmp_path), publishers.rosetta(tmp_path)
    found = source("textvqa", path, ocr=str(words))
    line = 'Reference OCR token: NOKIA, 10:30, "5G"'
    assert text(found[0]) == (
        f"H: <image>\nwhat is the brand of phone?\n{line}\n{SHORT}\nG: nokia\nH: what time is it?\n{line}\nG: 10:30"
    )
    assert text(found[1]) == f"H: <image>\nwhat type of plane is this?\n{SHORT}\nG: lape"  # nothing was read in this one
    assert path_of(found[0]) == "train_images/0054c91397f2fe05.jpg"
    assert "OCR" not in text(source("textvqa", path)[0])


def test_textcaps(tmp_path):
    path, words = publishers.textcaps(tmp_path), publishers.rosetta(tmp_path)
    found = source("textcaps", path, ocr=str(words))
    assert len(found) == 2
    assert text(found[0]) == (
        f'H: <image>\n{CAPTION}\nReference OCR token: NOKIA, 10:30, "5G"\nG: A Nokia phone lies on a table.'
    )
    assert found[0].annotations.captions == ("A Nokia phone lies on a table.", "a phone from nokia", "An old phone.")
    every = source("textcaps", path, merge=False)
    assert [sample.conversation.messages[1].text for sample in every][:3] == list(found[0].annotations.captions)
    assert len({sample.id for sample in every}) == len(every) == 4


def test_docvqa(tmp_path):
    found = source("docvqa", publishers.docvqa(tmp_path))
    assert text(found[0]) == (
        f"H: <image>\nwhat is the date mentioned in this letter?\n{SHORT}\nG: 1/8/93\n"
        "H: what is the contact person name mentioned in letter?\nG: P. Carter"
    )
    assert path_of(found[1]) == "documents/mxcj0037_1.png"


def test_chartqa(tmp_path):
    found = source("chartqa", publishers.chartqa(tmp_path))
    assert text(found[0]) == (
        f"H: <image>\nIs the value of Favorable 38 in 2015?\n{SHORT}\nG: Yes\nH: What is the difference?\nG: 0.57"
    )
    assert path_of(found[0]) == "png/two_col_21177.png"
    more = publishers.write(
        tmp_path / "train_augmented.json",
        [{"imgname": name, "query": "And?", "label": name[:3]} for name in ("9.png", "41810321001157.png")],
    )
    both = source("chartqa", tmp_path / "train_human.json", augmented=str(more))
    assert [sample.id for sample in both] == ["chartqa/two_col_21177.png", "chartqa/41810321001157.png", "chartqa/9.png"]
    assert text(both[1]) == f"H: <image>\nHow many bars are there?\n{SHORT}\nG: 4\nH: And?\nG: 418"
    assert both.fingerprint() != found.fingerprint()
    assert len(source("chartqa", tmp_path / "train_human.json", augmented=str(more), merge=False)) == 5


def test_dvqa(tmp_path):
    found = source("dvqa", publishers.dvqa(tmp_path))
    assert text(found[0]) == (
        f"H: <image>\nWhat is the value of the bar of the item frog?\n{SHORT}\nG: 9\nH: Is the value smaller?\nG: no"
    )
    assert path_of(found[1]) == "images/bar_train_00000008.png"


def test_ai2d_asks_about_letters_in_pictures_with_letters(tmp_path):
    folder = publishers.ai2d(tmp_path)
    found = source("ai2d", folder)
    assert text(found[0]) == (
        f"H: <image>\nWhat is A in the diagram?\nA. ears\nB. nose\nC. mouth\nD. face\n{LETTER}\nG: D\n"
        f"H: What is B in the diagram?\nA. face\nB. mouth\nC. nose\nD. ears\n{LETTER}\nG: C"
    )
    assert [path_of(sample) for sample in found] == ["abc_images/0.png", "images/0.png", "images/10.png"]
    assert found[0].images[0].root == str(tmp_path)
    assert len(source("ai2d", folder, lettered=False)) == 2
    assert len(source("ai2d", folder, orders="all")) == 4 + 2 + 3
    (tmp_path / "ai2d_test_ids.csv").write_text("0\n2\n")
    assert len(source("ai2d", folder, leave_out=str(tmp_path / "ai2d_test_ids.csv"))) == 1
    assert text(source("ai2d", folder / "10.png.json")[0]).endswith("G: A")


@pytest.mark.parametrize("name", publishers.ALL)
def test_every_source_is_one(tmp_path, name):
    """Pickled for workers, marked with its name, ids of its own, a row that others read; its text follows its options alone."""
    path = publishers.ALL[name](tmp_path)
    found = source(name, path)
    again = pickle.loads(pickle.dumps(found))
    assert [again[row] for row in range(len(found))] == list(found)
    assert len({sample.id for sample in found}) == len(found)
    assert all(sample.tags["source"] == name for sample in found)
    assert json.loads(json.dumps(row_of(found[0], ["a.jpg"] * len(found[0].images))))["conversations"]
    assert again.fingerprint() == found.fingerprint() == source(name, path).fingerprint()
    with pytest.raises(IndexError):
        found[len(found)]


@pytest.mark.parametrize("name", publishers.ALL)
def test_a_changed_file_has_another_fingerprint(tmp_path, name):
    path = publishers.ALL[name](tmp_path)
    before = source(name, path).fingerprint()
    file = path if path.is_file() else path / "10.png.json"
    file.write_text(file.read_text() + "\n ")
    assert source(name, path).fingerprint() != before


def test_changed_answers_have_another_fingerprint(tmp_path):
    path = publishers.vqav2(tmp_path)
    before = source("vqav2", path).fingerprint()
    answers = tmp_path / "v2_mscoco_train2014_annotations.json"
    answers.write_text(answers.read_text().replace("pitcher", "catcher"))
    assert source("vqav2", path).fingerprint() != before
    assert source("vqav2", path, merge=False).fingerprint() != source("vqav2", path).fingerprint()


def test_pictures_are_read_when_they_are_there(tmp_path):
    found = source("docvqa", publishers.docvqa(tmp_path))
    with pytest.raises(SampleError, match="there is no such file"):
        picture_size(found[0].images[0])
    (tmp_path / "documents").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "documents/xnbl0037_1.png")
    assert picture_size(found[0].images[0]) == (30, 20)


def test_other_spacing_and_escapes_make_no_difference(tmp_path):
    """A file that was read and written again by somebody's script."""
    path = publishers.gqa(
        tmp_path, [("n1\u00e9", 'Is "imageId": "7" a key?', "yes"), ("7", "And?", "no"), ("n1\u00e9", "So?", "no")]
    )
    plain = list(source("gqa", path))
    value = json.loads(path.read_text())
    path.write_text("\ufeff" + json.dumps(value, indent=3, ensure_ascii=False, separators=(" ,", " :  ")), encoding="utf-8")
    assert list(source("gqa", path)) == plain
    assert [sample.id for sample in plain] == ["gqa/n1\u00e9", "gqa/7"]
