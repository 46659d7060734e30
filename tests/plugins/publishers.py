"""Question files as their publishers write them, a few rows each: keys, order of keys and kinds of values are the real ones."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

VQA_INFO = {
    "description": "This is v2.0 of the VQA dataset.",
    "url": "http://visualqa.org",
    "version": "2.0",
    "year": 2017,
    "contributor": "VQA Team",
    "date_created": "2017-04-26 17:07:13",
}
LICENSE = {
    "url": "http://creativecommons.org/licenses/by/4.0/",
    "name": "Creative Commons Attribution 4.0 International License",
}


def write(path: Path, value: Any, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, **how), encoding="utf-8")
    return path


def people(*answers: str) -> list[dict[str, Any]]:
    """Ten answers, the given ones in turn."""
    said = [answers[number % len(answers)] for number in range(10)]
    return [{"answer": text, "answer_confidence": "yes", "answer_id": number + 1} for number, text in enumerate(said)]


def vqa_questions(rows: list[tuple[int, int, str]], subset: str = "train2014", **more: Any) -> dict[str, Any]:
    return {
        **more,
        "task_type": "Open-Ended",
        "data_type": "mscoco",
        "license": LICENSE,
        "data_subtype": subset,
        "questions": [{"image_id": image, "question": text, "question_id": id} for image, id, text in rows],
    }


def vqav2(folder: Path, rows: list[tuple[int, str, str]] | None = None) -> Path:
    """(picture, question, answer); the annotations stand in another order than the questions."""
    if rows is None:
        rows = [
            (458752, "What is this photo taken looking through?", "net"),
            (262146, "What color is the snow?", "white"),
            (458752, "What position is this man playing?", "pitcher"),
            (458752, "Is he a pitcher?", "yes"),
            (458752, "What position is this man playing?", "pitching"),
        ]
    seen: dict[int, int] = {}
    ids = []
    for image, _, _ in rows:
        seen[image] = seen.get(image, -1) + 1
        ids.append(image * 1000 + seen[image])
    questions = vqa_questions([(image, id, text) for (image, text, _), id in zip(rows, ids)], info=VQA_INFO)
    annotations = {
        "info": VQA_INFO,
        "license": LICENSE,
        "data_subtype": "train2014",
        "annotations": [
            {
                "question_type": "what",
                "multiple_choice_answer": answer,
                "answers": people(answer, "something"),
                "image_id": image,
                "answer_type": "other",
                "question_id": id,
            }
            for (image, _, answer), id in reversed(list(zip(rows, ids)))
        ],
        "data_type": "mscoco",
    }
    write(folder / "v2_mscoco_train2014_annotations.json", annotations)
    return write(folder / "v2_OpenEnded_mscoco_train2014_questions.json", questions)


def okvqa(folder: Path, rows: list[tuple[int, str, str]] | None = None) -> Path:
    rows = rows or [
        (51606, "What is the hairstyle of the blond called?", "pony tail"),
        (81721, "How old do you have to be in canada to do this?", "18"),
    ]
    info = {"year": 2019, "version": "1.0", "description": "This is v1.0 of the OK-VQA dataset."}
    ids = [image * 10 + 5 for image, _, _ in rows]
    annotations = {
        "license": LICENSE,
        "data_subtype": "train2014",
        "question_types": {"one": "Vehicles and Transportation"},
        "annotations": [
            {
                "image_id": image,
                "answer_type": "other",
                "question_type": "four",
                "question_id": id,
                "answers": [
                    {"answer_id": number, "raw_answer": text, "answer_confidence": "yes", "answer": text}
                    for number, text in enumerate(["braid", answer, answer, "braid", answer])
                ],
                "confidence": 3,
            }
            for (image, _, answer), id in zip(rows, ids)
        ],
        "info": info,
        "data_type": "mscoco",
    }
    write(folder / "mscoco_train2014_annotations.json", annotations)
    questions = vqa_questions([(image, id, text) for (image, text, _), id in zip(rows, ids)])
    return write(folder / "OpenEnded_mscoco_train2014_questions.json", {**questions, "info": info})


def gqa(folder: Path, rows: list[tuple[str, str, str]] | None = None) -> Path:
    rows = rows or [
        ("2354786", "Is the sky dark?", "yes"),
        ("2375429", "What is on the white wall?", "pipe"),
        ("2354786", "Is that pipe red?", "no"),
    ]
    members = {
        f"{number:08d}": {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "sky (2486325)"}],
            "entailed": [],
            "equivalent": [f"{number:08d}"],
            "question": question,
            "imageId": image,
            "isBalanced": True,
            "groups": {"global": None, "local": "06-sky_dark"},
            "answer": answer,
            "semanticStr": "select: sky (2486325)->verify color: dark [0]",
            "annotations": {"answer": {}, "question": {"2": "2486325"}, "fullAnswer": {"2": "2486325"}},
            "types": {"detailed": "verifyAttr", "semantic": "attr", "structural": "verify"},
            "fullAnswer": f"{answer.capitalize()}, it is so.",
        }
        for number, (image, question, answer) in enumerate(rows, 2930152)
    }
    return write(folder / "train_balanced_questions.json", members)


def aokvqa(folder: Path, rows: list[tuple[int, str, list[str], int]] | None = None) -> Path:
    rows = rows or [
        (299207, "What is the man by the bags awaiting?", ["skateboarder", "train", "delivery", "cab"], 3),
        (299207, "Where does this man eat before getting picked up?", ["outside", "office", "train station", "restaurant"], 0),
        (461751, "What is in the motorcyclist's mouth?", ["toothpick", "food", "popsicle stick", "cigarette"], 3),
    ]
    return write(
        folder / "aokvqa_v1p0_train.json",
        [
            {
                "split": "train",
                "image_id": image,
                "question_id": f"22MexNkBPpdZGX6sxbxVB{number}",
                "question": question,
                "choices": choices,
                "correct_choice_idx": correct,
                "direct_answers": ["ride", "ride", "bus", choices[correct], "taxi", "ride"],
                "difficult_direct_answer": False,
                "rationales": ["A train would not be on the street.", "He is waiting."],
            }
            for number, (image, question, choices, correct) in enumerate(rows)
        ],
    )


def ocr_vqa(folder: Path, rows: dict[str, tuple[int, list[tuple[str, str]]]] | None = None) -> Path:
    rows = rows or {
        "140031996X": (
            1,
            [
                ("Who is the author of this book?", "H. Jackson Brown"),
                ("What is the title of this book?", "Life's Little Instruction Book"),
                ("Is this a comedy book?", "No"),
            ],
        ),
        "761183272": (3, [("Who wrote this book?", "Sandra Boynton")]),
        "0153350591": (1, [("What is the genre of this book?", "Calendars")]),
    }
    return write(
        folder / "dataset.json",
        {
            key: {
                "imageURL": f"http://ecx.images-amazon.com/images/I/61Y5cOdHJbL{'.gif' if key.startswith('0') else '.jpg'}",
                "questions": [question for question, _ in pairs],
                "answers": [answer for _, answer in pairs],
                "title": "Mom's Family Wall Calendar",
                "authorName": "Sandra Boynton",
                "genre": "Calendars",
                "split": split,
            }
            for key, (split, pairs) in rows.items()
        },
    )


def _open_image(image: str, set_name: str = "train") -> dict[str, Any]:
    return {
        "image_id": image,
        "image_classes": ["Cello", "Belt"],
        "flickr_original_url": "https://farm2.staticflickr.com/4/5_o.jpg",
        "flickr_300k_url": "https://c4.staticflickr.com/4/5_z.jpg",
        "image_width": 1024,
        "image_height": 683,
        "set_name": set_name,
    }


def textvqa(folder: Path) -> Path:
    rows = [
        ("0054c91397f2fe05", "what is the brand of phone?", ["nokia"] * 9 + ["toshiba"]),
        ("005635e119b9f32f", "what type of plane is this?", ["lape", "vigili del fuoco", "lape"]),
        ("0054c91397f2fe05", "what time is it?", ["10:30", "10:30 am"]),
    ]
    data = [
        {
            "question": question,
            **_open_image(image),
            "question_tokens": question.rstrip("?").split(),
            "answers": answers,
            "question_id": 34602 + number,
        }
        for number, (image, question, answers) in enumerate(rows)
    ]
    head = {"dataset_type": "train", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    return write(folder / "TextVQA_0.5.1_train.json", {**head, "data": data})


def textcaps(folder: Path, rows: list[tuple[str, list[str]]] | None = None) -> Path:
    rows = rows or [
        ("0054c91397f2fe05", ["A Nokia phone lies on a table.", "a phone from nokia", "An old phone."]),
        ("005635e119b9f32f", ["A fire plane on the ground."]),
    ]
    data = [
        {
            **_open_image(image),
            "image_name": image,
            "image_path": f"train/{image}.jpg",
            "caption_id": 2 + number,
            "caption_tokens": caption.lower().split(),
            "caption_str": caption,
            "reference_strs": captions,
            "reference_tokens": [text.lower().split() for text in captions],
        }
        for image, captions in rows
        for number, caption in enumerate(captions)
    ]
    head = {"dataset_type": "train", "dataset_name": "textcaps", "dataset_version": "0.1"}
    return write(folder / "TextCaps_0.1_train.json", {**head, "data": data})


def rosetta(folder: Path, words: dict[str, list[str]] | None = None) -> Path:
    words = words if words is not None else {"0054c91397f2fe05": ["NOKIA", "10:30", '"5G"'], "005635e119b9f32f": []}
    data = [
        {
            "image_id": image,
            "ocr_tokens": tokens,
            "ocr_info": [{"word": token, "bounding_box": {"width": 0.1}} for token in tokens],
        }
        for image, tokens in words.items()
    ]
    head = {"dataset_type": "train", "dataset_name": "textvqa", "dataset_version": "0.2"}
    return write(folder / "TextVQA_Rosetta_OCR_v0.2_train.json", {**head, "data": data})


def docvqa(folder: Path) -> Path:
    rows = [
        (337, "what is the date mentioned in this letter?", "xnbl0037_1", ["1/8/93"]),
        (338, "what is the contact person name mentioned in letter?", "xnbl0037_1", ["P. Carter", "p. carter"]),
        (339, "Which corporation's letterhead is this?", "mxcj0037_1", ["Brown & Williamson Tobacco Corporation"]),
    ]
    data = [
        {
            "questionId": id,
            "question": question,
            "question_types": ["handwritten", "form"],
            "image": f"documents/{page}.png",
            "docId": 279,
            "ucsf_document_id": page.split("_")[0],
            "ucsf_document_page_no": "1",
            "answers": answers,
            "data_split": "train",
        }
        for id, question, page, answers in rows
    ]
    head = {"dataset_name": "SP-DocVQA", "dataset_version": "1.0", "dataset_split": "train"}
    return write(folder / "train_v1.0_withQT.json", {**head, "data": data}, indent=1)


def chartqa(folder: Path) -> Path:
    rows = [
        ("two_col_21177.png", "Is the value of Favorable 38 in 2015?", "Yes"),
        ("41810321001157.png", "How many bars are there?", "4"),
        ("two_col_21177.png", "What is the difference?", "0.57"),
    ]
    return write(
        folder / "train_human.json", [{"imgname": name, "query": query, "label": label} for name, query, label in rows]
    )


def dvqa(folder: Path) -> Path:
    rows = [
        (7, "What is the value of the bar of the item frog?", "9"),
        (8, "How many bars are there?", "two"),
        (7, "Is the value smaller?", "no"),
    ]
    return write(
        folder / "train_qa.json",
        [
            {
                "question": question,
                "question_id": 40000000 + number,
                "template_id": "data",
                "answer": answer,
                "answer_bbox": [],
                "image": f"bar_train_{picture:08d}.png",
            }
            for number, (picture, question, answer) in enumerate(rows)
        ],
    )


def ai2d(folder: Path) -> Path:
    """The folder of questions."""
    files = {
        "0": {
            "What is A in the diagram?": (True, ["ears", "nose", "mouth", "face"], 3),
            "What comes after the egg?": (False, ["frog", "tadpole"], 1),
            "What is B in the diagram?": (True, ["face", "mouth", "nose", "ears"], 2),
        },
        "10": {"Which eats the other?": (False, ["fox", "hare", "grass"], 0)},
        "2": {},
    }
    for name, questions in files.items():
        told = {
            text: {"abcLabel": letters, "answerTexts": choices, "correctAnswer": correct, "questionId": f"{name}.png-{number}"}
            for number, (text, (letters, choices, correct)) in enumerate(questions.items())
        }
        write(folder / "questions" / f"{name}.png.json", {"imageName": f"{name}.png", "questions": told})
    return folder / "questions"


PROBLEMS = {
    "1": {
        "question": "Which of these states is farthest north?",
        "choices": ["West Virginia", "Louisiana", "Arizona", "Oklahoma"],
        "answer": 0,
        "hint": "",
        "image": "image.png",
        "task": "closed choice",
        "grade": "grade2",
        "subject": "social science",
        "topic": "geography",
        "category": "Geography",
        "skill": "Read a map: cardinal directions",
        "lecture": "Maps have four cardinal directions.\nNorth is  up.",
        "solution": "West Virginia is farthest north.",
        "split": "train",
    },
    "2": {
        "question": "Would you find the word in the dictionary?",
        "choices": ["no", "yes"],
        "answer": 1,
        "hint": "Guide words: stair - suit.",
        "image": None,
        "task": "yes or no",
        "grade": "grade3",
        "subject": "language science",
        "topic": "reference-skills",
        "category": "Reference skills",
        "skill": "Use guide words",
        "lecture": "",
        "solution": "",
        "split": "train",
    },
    "5": {
        "question": "Which is a solid?",
        "choices": ["air", "a brick"],
        "answer": 1,
        "hint": "Select the better answer.",
        "image": "choice.png",
        "task": "closed choice",
        "grade": "grade4",
        "subject": "natural science",
        "topic": "physics",
        "category": "Matter",
        "skill": "Solids",
        "lecture": "A solid keeps its shape.",
        "solution": "A brick keeps its shape.",
        "split": "val",
    },
}


def scienceqa(folder: Path) -> Path:
    write(folder / "pid_splits.json", {"train": ["2", "1"], "val": ["5"], "trainval": ["1", "2", "5"], "minival": []})
    return write(folder / "problems.json", PROBLEMS, indent=4)


ALL = {
    make.__name__: make
    for make in (vqav2, okvqa, gqa, aokvqa, ocr_vqa, textvqa, textcaps, docvqa, chartqa, dvqa, ai2d, scienceqa)
}


def talks(path: Path, rows: list[tuple[str, str | None]]) -> Path:
    """LLaVA's own form: (id, picture)."""
    return write(
        path,
        [
            {
                "id": id,
                **({"image": picture} if picture else {"model": ""}),
                "conversations": [
                    {"from": "human", "value": f"{'<image>' + chr(10) if picture else ''}What of {id}?"},
                    {"from": "gpt", "value": f"It is {id}."},
                ],
            }
            for id, picture in rows
        ],
    )


def refcoco(folder: Path, expressions: int = 11) -> Path:
    """Two pictures; the first has so many expressions of one thing, the second one."""
    images = [
        {"license": 1, "file_name": f"COCO_train2014_{id:012d}.jpg", "height": 40, "width": 60, "id": id}
        for id in (98304, 131074)
    ]
    annotations = [
        {
            "area": 3.0,
            "iscrowd": 0,
            "image_id": image["id"],
            "bbox": [6.0, 4.0, 30.0, 20.0],
            "category_id": 1,
            "id": 500 + number,
        }
        for number, image in enumerate(images)
    ]
    refs = []
    for number, (image, count) in enumerate(zip(images, (expressions, 1))):
        said = [{"tokens": ["thing"], "raw": f"Thing {one}", "sent_id": one, "sent": f"thing {one}"} for one in range(count)]
        refs.append(
            {
                "sent_ids": list(range(count)),
                "file_name": image["file_name"],
                "ann_id": 500 + number,
                "ref_id": number,
                "image_id": image["id"],
                "split": "train",
                "sentences": said,
                "category_id": 1,
            }
        )
    sections = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    write(folder / "instances.json", {"info": {}, "licenses": [], **sections})
    folder.joinpath("refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return folder / "refs(unc).p"


def visual_genome(folder: Path, regions: int = 13) -> Path:
    """Two pictures, the first with so many regions, the second with two."""
    place = {"width": 20, "height": 10, "y": 5, "x": 8}
    rows = [
        {
            "regions": [
                {"region_id": 100 * id + one, "phrase": f"a red thing {one}", "image_id": id, **place} for one in range(count)
            ],
            "id": id,
        }
        for id, count in ((1, regions), (2, 2))
    ]
    url = "https://cs.stanford.edu/people/rak248/{}/{}.jpg"
    data = [
        {"width": 60, "url": url.format(name, id), "height": 40, "image_id": id, "coco_id": None, "flickr_id": None}
        for id, name in ((1, "VG_100K"), (2, "VG_100K_2"))
    ]
    write(folder / "image_data.json", data)
    return write(folder / "region_descriptions.json", rows)


def coco_captions(folder: Path) -> Path:
    ids = (98304, 131074)
    images = [{"license": 1, "file_name": f"COCO_train2014_{id:012d}.jpg", "height": 40, "width": 60, "id": id} for id in ids]
    captions = [{"image_id": id, "id": 10 * id + one, "caption": f"A thing {one}."} for id in ids for one in range(5)]
    return write(folder / "captions_train2014.json", {"info": {}, "images": images, "licenses": [], "annotations": captions})
