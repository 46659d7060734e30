"""The published mixtures, built by their recipes from files as the ten and more publishers write them, a few rows each."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import publishers
import pytest
from PIL import Image

from llava_kit.assemble.parts import build_source
from llava_kit.core.conversation import ImageFile
from llava_kit.data.mixture import MixtureSource
from llava_kit.prepare.run import prepare
from llava_kit.recipe.load import load_any
from llava_kit.recipe.prepare import DataRecipe

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
CAPTION = "Provide a one-sentence caption for the provided image."
OF_V1_5 = ["llava", "sharegpt", "vqav2", "gqa", "okvqa", "ocr_vqa", "aokvqa", "textcaps", "refcoco", "vg"]
BOOKS = {f"0{number}": (1 if number else 3, [("What is the title?", f"Title {number}"), ("Who?", "A")]) for number in range(4)}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The folder `data` as the comments of the recipes say it should be; the recipes name it from where they are run."""
    data = tmp_path / "data"
    publishers.talks(data / "llava_instruct/llava_instruct_150k.json", [("a", "000000000009.jpg"), ("b", "000000000009.jpg")])
    publishers.talks(data / "sharegpt/sharegpt_40k.json", [("wgByO4Y_0", None)])
    publishers.vqav2(data / "vqav2")
    publishers.gqa(data / "gqa")
    publishers.okvqa(data / "okvqa")
    publishers.ocr_vqa(data / "ocr_vqa", BOOKS)
    publishers.aokvqa(data / "aokvqa")
    publishers.textcaps(data / "textvqa")
    publishers.rosetta(data / "textvqa")
    publishers.refcoco(data / "refcoco")
    publishers.visual_genome(data / "vg")
    for name in ("coco/train2014/COCO_train2014_000000098304", "coco/train2014/COCO_train2014_000000131074", "vg/VG_100K/1"):
        picture(data / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    return data


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40)).save(path, "JPEG")


def recipe_of(recipes_folder, name, *overrides) -> DataRecipe:
    recipe = load_any(recipes_folder / "data" / f"{name}.yaml", overrides)
    assert isinstance(recipe, DataRecipe)
    return recipe


def mixture(recipe: DataRecipe) -> MixtureSource:
    (step,) = recipe.prepare.values()
    assert step.convert is not None
    source = build_source(step.convert.source)
    assert isinstance(source, MixtureSource)
    return source


def rows_of(source: MixtureSource) -> dict[str, list]:
    rows: dict[str, list] = {share.name: [] for share in source.shares}
    for sample in source:
        rows[sample.tags["ingredient"]].append(sample)
    return rows


def asked(sample) -> list[str]:
    return [message.text.strip() for message in sample.conversation.messages if message.role == "user"]


TAKE = "prepare.mix.convert.source.of.ocr_vqa.take=random:2"


def test_v1_5_keeps_its_rules(files, recipes_folder):
    recipe = recipe_of(recipes_folder, "llava_v1_5_mix665k", TAKE)
    rows = rows_of(mixture(recipe))
    assert list(rows) == OF_V1_5
    # One row a picture; A-OKVQA one for each turn of its four choices; RefCOCO's eleven expressions in two rows.
    assert {name: len(found) for name, found in rows.items()} == {
        "llava": 2, "sharegpt": 1, "vqav2": 2, "gqa": 2, "okvqa": 2, "ocr_vqa": 2, "aokvqa": 8, "textcaps": 2, "refcoco": 3,
        "vg": 2,
    }  # fmt: skip
    for name in ("vqav2", "gqa", "okvqa", "ocr_vqa", "textcaps", "vg"):
        assert len({sample.images[0].name for sample in rows[name]}) == len(rows[name])
    for name in ("vqav2", "gqa", "okvqa", "ocr_vqa"):
        for sample in rows[name]:
            questions = asked(sample)
            assert len(set(questions)) == len(questions)
            assert [SHORT in question for question in questions] == [True, *[False] * (len(questions) - 1)]
    assert all(LETTER in question for sample in rows["aokvqa"] for question in asked(sample))
    letters = Counter(sample.conversation.messages[1].text for sample in rows["aokvqa"])
    assert letters == dict.fromkeys("ABCD", 2)
    assert [asked(sample)[0].split("\n")[0] for sample in rows["textcaps"]] == [CAPTION] * 2
    assert "\nReference OCR token: NOKIA" in asked(rows["textcaps"][0])[0]
    assert all(len(asked(sample)) < 10 for sample in rows["refcoco"])
    assert sum(len(asked(sample)) for sample in rows["refcoco"]) == 12
    assert sorted(len(asked(sample)) for sample in rows["vg"]) == [2, 10]
    assert rows["sharegpt"][0].images == ()


def test_a_random_part_is_the_same_again_and_another_by_another_seed(files, recipes_folder):
    def books(*overrides):
        return [
            sample.id
            for sample in rows_of(mixture(recipe_of(recipes_folder, "llava_v1_5_mix665k", TAKE, *overrides)))["ocr_vqa"]
        ]

    drawn = {tuple(books(f"prepare.mix.convert.source.seed={seed}")) for seed in range(8)}
    assert books() == books()
    assert len({frozenset(some) for some in drawn}) == 3  # each pair of the three books of the train split
    assert not any("ocr_vqa/00" in some for some in drawn)


def test_v1_5_is_written_with_pictures_where_llava_has_them(files, recipes_folder):
    recipe = recipe_of(recipes_folder, "llava_v1_5_mix665k", "prepare.mix.convert.workers=1")
    for sample in mixture(recipe):
        for image in sample.images:
            assert isinstance(image, ImageFile)
            assert image.root is not None
            picture(Path(image.root, image.path))
    prepare(recipe)
    rows = json.loads((files / "llava_v1_5_mix665k" / "data.json").read_text())
    assert len(rows) == 27
    folders = Counter(row.get("image", "none").rpartition("/")[0] for row in rows)
    assert folders == {
        "coco/train2017": 14, "coco/train2014": 3, "gqa/images": 2, "ocr_vqa/images": 3, "textvqa/train_images": 2,
        "vg/VG_100K": 1, "vg/VG_100K_2": 1, "": 1,
    }  # fmt: skip
    (row,) = [row for row in rows if row["id"] == "vqav2/262146"]
    assert row["image"] == "coco/train2017/000000262146.jpg"
    assert row["conversations"] == [
        {"from": "human", "value": f"<image>\nWhat color is the snow?\n{SHORT}"},
        {"from": "gpt", "value": "White"},
    ]


def test_the_three_types_of_llava_instruct(files, recipes_folder):
    for number, name in enumerate(("conversation_58k", "detail_23k", "complex_reasoning_77k"), 1):
        publishers.talks(files / f"llava_instruct/{name}.json", [(str(one), "000000000009.jpg") for one in range(number)])
    rows = rows_of(mixture(recipe_of(recipes_folder, "llava_instruct_158k")))
    assert {name: len(found) for name, found in rows.items()} == {"conversation": 1, "detail": 2, "reasoning": 3}
    assert rows["detail"][0].images[0].root.endswith("data/coco/train2017")


def test_next_has_pages_in_the_place_of_textcaps(files, recipes_folder):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    publishers.docvqa(files / "docvqa")
    publishers.chartqa(files / "chartqa/train")
    publishers.write(files / "chartqa/train/train_augmented.json", [{"imgname": "9.png", "query": "And?", "label": "9"}])
    publishers.dvqa(files / "dvqa")
    publishers.ai2d(files / "ai2d")
    (files / "ai2d/ai2d_test_ids.csv").write_text("10\n")
    publishers.coco_captions(files / "coco/annotations")
    publishers.talks(files / "sharegpt4v/sharegpt4v_instruct_gpt4-vision_cap100k.json", [("s", "coco/train2017/1.jpg")])
    publishers.talks(files / "laion_gpt4v/data.json", [("l", "pictures/1.jpg")])
    truth = json.dumps({"gt_parse": {"text_sequence": "Dares Wins Vol. 5"}})
    picture(files / "1.jpg")
    table = pa.table({"image": [{"bytes": (files / "1.jpg").read_bytes(), "path": "1.jpg"}], "ground_truth": [truth]})
    (files / "synthdog/data").mkdir(parents=True)
    pq.write_table(table, files / "synthdog/data/train-00000-of-00001.parquet")
    rows = rows_of(mixture(recipe_of(recipes_folder, "llava_next_760k")))
    added = ["coco_captions", "docvqa", "synthdog", "chartqa", "dvqa", "ai2d", "sharegpt4v", "laion_gpt4v"]
    assert list(rows) == [*(name for name in OF_V1_5 if name != "textcaps"), *added]
    assert [len(rows[name]) for name in added] == [2, 2, 1, 3, 2, 2, 1, 1]
    assert asked(rows["synthdog"][0])[0].startswith("OCR this image section by section, from top to bottom, and left to right.")
    assert rows["synthdog"][0].conversation.messages[1].text == "Dares Wins Vol. 5"
    assert asked(rows["coco_captions"][0]) == [CAPTION]
    assert {sample.images[0].path for sample in rows["ai2d"]} == {"abc_images/0.png", "images/0.png"}


@pytest.mark.parametrize(("name", "rows"), [("llava_v1_5_mix665k", 665_298), ("llava_next_760k", 779_278)])
def test_the_counts_in_the_comments_sum_up(recipes_folder, name, rows):
    text = (recipes_folder / "data" / f"{name}.yaml").read_text()
    counts = re.findall(r"^#   \S.*?\s{2,}([\d,]+)   ", text, re.MULTILINE)
    assert sum(int(count.replace(",", "")) for count in counts) == rows
    assert f"{rows:,}" in text
