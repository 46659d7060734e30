"""Boxes in the text are looked at in drawn pictures; a picture's regions become conversations as LLaVA 1.5 has them."""

from __future__ import annotations

import json
import pickle
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llava_kit.assemble.parts import build
from llava_kit.assemble.recognise import recognise
from llava_kit.core.annotations import Box, unpadded
from llava_kit.errors import DataError, SampleError
from llava_kit.image.reader import read_pixels

RED = (200, 30, 30)
# Width, height, and a rectangle [x, y, width, height]; wide, tall and square, at edges and within.
DRAWN = [
    (320, 120, [16, 24, 96, 60]),
    (320, 120, [0, 0, 60, 120]),
    (90, 300, [30, 220, 60, 80]),
    (90, 300, [10, 20, 40, 200]),
    (128, 128, [64, 8, 56, 100]),
    (301, 77, [200, 11, 101, 66]),
]
PROMPTS = {
    "paper": (
        r"Provide a short description for this region\. (\[.*\])\.",
        r"Provide the bounding box coordinate of the region this sentence describes\. (.*)",
    ),
    "released": (
        r"Please provide a short description for this region: (\[.*\])\.",
        r"Please provide the bounding box coordinate of the region this sentence describes: (.*)",
    ),
}


def draw(folder, name: str, width: int, height: int, box) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (width, height), (240, 240, 240))
    picture.paste(RED, (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    picture.save(folder / name, "PNG")


def refcoco_files(tmp_path, drawn=DRAWN, sentences=1):
    """A folder as RefCOCO's archives have it, with pictures."""
    images, annotations, refs = [], [], []
    for number, (width, height, box) in enumerate(drawn):
        file_name = f"COCO_train2014_{number:012d}.jpg"
        draw(tmp_path / "train2014", file_name, width, height, box)
        images.append({"license": 1, "file_name": file_name, "height": height, "width": width, "id": 10 + number})
        thing = {"segmentation": [[1.0, 2.0]], "area": 3.0, "iscrowd": 0, "image_id": 10 + number, "bbox": [*map(float, box)]}
        annotations.append({**thing, "category_id": 1, "id": 500 - number})
        said = [
            {
                "tokens": ["red", "thing"],
                "raw": f"Red thing {number}.{each}!",
                "sent_id": each,
                "sent": f"red thing {number}x{each}",
            }
            for each in range(sentences)
        ]
        ref = {"sent_ids": list(range(sentences)), "file_name": f"COCO_train2014_{number:012d}_{500 - number}.jpg"}
        ref |= {
            "ann_id": 500 - number,
            "ref_id": number,
            "image_id": 10 + number,
            "split": "train",
            "sentences": said,
            "category_id": 1,
        }
        refs.append(ref)
    folder = tmp_path / "refcoco"
    folder.mkdir(exist_ok=True)
    body = {
        "info": {},
        "images": images,
        "licenses": [],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "instances.json").write_text(json.dumps(body))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    (folder / "refs.json").write_text(json.dumps(refs))
    return folder, refs


def vg_files(tmp_path, drawn=DRAWN, regions=1):
    """Files as Visual Genome has them, with pictures in two folders."""
    descriptions, data = [], []
    for number, (width, height, (x, y, across, down)) in enumerate(drawn):
        folder = "VG_100K_2" if number % 2 else "VG_100K"
        draw(tmp_path / folder, f"{number + 1}.jpg", width, height, [x, y, across, down])
        data.append(
            {
                "width": width,
                "url": f"https://cs.stanford.edu/people/rak248/{folder}/{number + 1}.jpg",
                "height": height,
                "image_id": number + 1,
                "coco_id": None,
                "flickr_id": None,
            }
        )
        place = {"width": across, "height": down, "image_id": number + 1, "y": y, "x": x}
        said = [{"region_id": 1000 * number + each, "phrase": f"the red thing {each} ", **place} for each in range(regions)]
        descriptions.append({"regions": said, "id": number + 1})
    (tmp_path / "region_descriptions.json").write_text(json.dumps(descriptions))
    (tmp_path / "image_data.json").write_text(json.dumps(data[::-1]))
    return tmp_path / "region_descriptions.json"


def turns(sample) -> list[tuple[str, str]]:
    texts = [message.text.strip() for message in sample.conversation.messages]
    return list(zip(texts[::2], texts[1::2], strict=True))


def box_in(turn: tuple[str, str], wording: str) -> tuple[str, list[float]]:
    """Which task a turn is, and the numbers in it."""
    describe, locate = PROMPTS[wording]
    asked = re.fullmatch(describe, turn[0])
    if asked:
        return "describe", json.loads(asked[1])
    assert re.fullmatch(locate, turn[0])
    return "locate", json.loads(turn[1])


def check_pixels(canvas: np.ndarray, numbers: list[float]) -> None:
    """The rectangle between the numbers is red, and red is nowhere else; to the two decimals that the text has."""
    height, width = canvas.shape[:2]
    red = (canvas == np.array(RED)).all(-1)
    rows, columns = (np.arange(side) + 0.5 for side in (height, width))

    def within(grow: float) -> np.ndarray:
        left, top, right, bottom = numbers
        across = (columns > (left - grow) * width) & (columns < (right + grow) * width)
        down = (rows > (top - grow) * height) & (rows < (bottom + grow) * height)
        return down[:, None] & across[None, :]

    assert red.any()
    assert red[within(-0.006)].all()
    assert not red[~within(0.006)].any()


def square(pixels: np.ndarray) -> np.ndarray:
    """The picture in the middle of a square, as LLaVA pads it."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    canvas = np.full((side, side, 3), 128, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = pixels
    return canvas


@pytest.mark.parametrize("wording", PROMPTS)
@pytest.mark.parametrize("convention", ["picture", "padded"])
@pytest.mark.parametrize("name", ["refcoco", "visual_genome"])
def test_the_box_in_the_text_is_where_the_colour_is(tmp_path, name, convention, wording):
    if name == "refcoco":
        path, root = refcoco_files(tmp_path)[0] / "refs(unc).p", tmp_path / "train2014"
    else:
        path, root = vg_files(tmp_path), tmp_path
    seen = set()
    for task in ("describe", "locate", "both"):
        options: dict[str, Any] = {"image_root": str(root), "boxes": convention, "wording": wording, "task": task}
        source = build("source", name, path=str(path), **options)
        assert len(source) == len(DRAWN)
        for index in range(len(DRAWN)):
            sample = source[index]
            assert sample.tags["source"] == name
            assert sample.annotations.text_boxes == convention
            pixels = read_pixels(sample.images[0])
            height, width = pixels.shape[:2]
            (turn,) = turns(sample)
            kind, numbers = box_in(turn, wording)
            seen.add((task, kind))
            check_pixels(square(pixels) if convention == "padded" else pixels, numbers)
            # And back, by the arithmetic that readers of the annotation use.
            box = Box("", *numbers)
            back = unpadded(box, (width, height)) if convention == "padded" else box
            assert back[1:] == pytest.approx(
                sample.annotations.boxes[0][1:], abs=0.006 * max(width, height) / min(width, height)
            )
            check_pixels(pixels, list(sample.annotations.boxes[0][1:]))
    assert {each for each in seen if each[0] != "both"} == {("describe", "describe"), ("locate", "locate")}
    assert {kind for task, kind in seen if task == "both"} == {"describe", "locate"}


def test_the_conventions_differ_where_the_picture_is_no_square(tmp_path):
    folder, _ = refcoco_files(tmp_path)
    root: dict[str, Any] = {"image_root": str(tmp_path / "train2014"), "task": "locate"}
    padded, own = (
        build("source", "refcoco", path=str(folder / "refs.json"), boxes=each, **root) for each in ("padded", "picture")
    )
    answers = [(turns(padded[index])[0][1], turns(own[index])[0][1]) for index in range(len(DRAWN))]
    assert [first == second for first, second in answers] == [width == height for width, height, _ in DRAWN]
    # 320 x 120: a hundred pixels of padding above; two decimals, and no zero at an end, as in the released file.
    assert answers[0] == ("[0.05, 0.39, 0.35, 0.57]", "[0.05, 0.2, 0.35, 0.7]")
    assert answers[1][1] == "[0.0, 0.0, 0.19, 1.0]"


def test_a_picture_s_expressions_are_split_below_ten_turns(tmp_path):
    folder, refs = refcoco_files(tmp_path, DRAWN[:3], sentences=21)
    options: dict[str, Any] = {
        "path": str(folder / "refs(unc).p"),
        "image_root": str(tmp_path / "train2014"),
        "wording": "released",
    }
    source = build("source", "refcoco", **options)
    assert [len(turns(sample)) for sample in source] == [7] * 9
    assert len({sample.id for sample in source}) == 9
    said = [box.label for index in range(3) for box in source[index].annotations.boxes]
    assert sorted(said) == sorted(sentence["sent"] for sentence in refs[0]["sentences"])  # each once, none lost
    assert said != [sentence["sent"] for sentence in refs[0]["sentences"]]
    kinds = [box_in(turn, "released")[0] for sample in source for turn in turns(sample)]
    assert 15 < kinds.count("describe") < 48  # of 63, by the seed
    described = next(answer for sample in source for asked, answer in turns(sample) if "short description" in asked)
    assert re.fullmatch(r"Red thing \dx\d+\.", described)
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[index] for index in (8, 0)] == [source[8], source[0]]
    other = build("source", "refcoco", **options, seed=1)
    assert other[0] != source[0]
    assert other.fingerprint() != source.fingerprint()
    few = build("source", "refcoco", **options, max_turns=4, text="raw")
    assert {len(turns(sample)) for sample in few} == {3, 4}
    assert few[0].annotations.boxes[0].label.startswith("Red thing 0.")


def test_json_and_pickle_say_the_same(tmp_path):
    folder, _ = refcoco_files(tmp_path, sentences=2)
    sources = [
        build("source", "refcoco", path=str(folder / name), image_root=str(tmp_path / "train2014"))
        for name in ("refs(unc).p", "refs.json")
    ]
    assert list(sources[0]) == list(sources[1])
    for name in ("refs(unc).p", "refs.json"):
        assert recognise(str(folder / name)).type == "refcoco"


def test_at_most_ten_regions_by_the_seed(tmp_path):
    path = vg_files(tmp_path, DRAWN[:2], regions=40)
    assert recognise(str(path)).type == "visual_genome"
    source = build("source", "visual_genome", path=str(path))
    assert [sample.images[0].name for sample in source] == ["VG_100K/1.jpg", "VG_100K_2/2.jpg"]
    assert [sample.id for sample in source] == ["1", "2"]
    assert len(turns(source[0])) == len({box.label for box in source[0].annotations.boxes}) == 10
    drawn = [
        tuple(box.label for box in build("source", "visual_genome", path=str(path), seed=seed)[0].annotations.boxes)
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert max(int(label.split()[-1]) for label in drawn[0]) > 20  # of all forty, not of the first
    assert len(turns(build("source", "visual_genome", path=str(path), max_regions=60)[1])) == 40
    assert list(pickle.loads(pickle.dumps(source))) == list(source)


def test_regions_that_cannot_be_used_are_counted_or_told(tmp_path):
    path = vg_files(tmp_path, DRAWN[:2], regions=3)
    rows = json.loads(path.read_text())
    rows[0]["regions"][0]["x"] = 400
    rows[0]["regions"][1]["phrase"] = " "
    rows[1]["regions"] = []
    path.write_text(json.dumps(rows))
    source = build("source", "visual_genome", path=str(path))
    assert source[0].tags["boxes_left_out"] == 2
    assert [box.label for box in source[0].annotations.boxes] == ["the red thing 2"]
    strict = build("source", "visual_genome", path=str(path), bad_boxes="error")
    for each, index, reason in ((strict, 0, "bad_box"), (source, 1, "no_regions")):
        with pytest.raises(SampleError) as caught:
            each[index]
        assert (caught.value.reason, caught.value.sample_id) == (reason, str(index + 1))


def test_files_that_are_missing_or_mixed_up(tmp_path):
    folder, refs = refcoco_files(tmp_path)
    path = vg_files(tmp_path / "vg")
    root: dict[str, Any] = {"image_root": str(tmp_path / "train2014")}

    def told(pattern, name, **options):
        with pytest.raises(DataError, match=pattern):
            build("source", name, **options)

    told(r"no expressions of split 'trian'; its splits are train; did you mean 'train'", "refcoco",
         path=str(folder / "refs.json"), split="trian", **root)  # fmt: skip
    (tmp_path / "alone.json").write_text(json.dumps(refs))
    told(r"no such file; give instances=", "refcoco", path=str(tmp_path / "alone.json"), **root)
    told(r"its pictures are not in .*give image_root=.*train2014", "refcoco", path=str(folder / "refs.json"))
    body = json.loads((folder / "instances.json").read_text())
    body["annotations"] = body["annotations"][1:]
    (tmp_path / "other.json").write_text(json.dumps(body))
    told(r"1 of 6 expressions have an ann_id that .*other.json does not have, the first is 500", "refcoco",
         path=str(folder / "refs.json"), instances=str(tmp_path / "other.json"), **root)  # fmt: skip
    told(r"entry 0 has the ann_id \[1, 2\]; expected a whole number", "refcoco", path=write_refs(tmp_path, refs, ann_id=[1, 2]),
         instances=str(folder / "instances.json"), **root)  # fmt: skip
    told("expected an object with 'sent'", "refcoco", path=write_refs(tmp_path, refs, sentences=["red"]),
         instances=str(folder / "instances.json"), **root)  # fmt: skip
    told(r"instances.json: is an object with 'info', 'images'.*expected refs\(unc\).p", "refcoco",
         path=str(folder / "instances.json"), **root)  # fmt: skip
    (tmp_path / "captions.json").write_text(
        json.dumps({"images": [], "annotations": [{"image_id": 1, "id": 1, "caption": "a"}]})
    )
    told("have no 'bbox'; expected instances.json", "refcoco", path=str(folder / "refs.json"),
         instances=str(tmp_path / "captions.json"), **root)  # fmt: skip
    (tmp_path / "image_data.json").write_text("[]")
    (tmp_path / "region_descriptions.json").write_text(path.read_text())
    told("found 0 rows; expected image_data.json", "visual_genome", path=str(tmp_path / "region_descriptions.json"))
    told(
        "expected 'regions' among them, as region_descriptions.json",
        "visual_genome",
        path=str(tmp_path / "vg" / "image_data.json"),
    )
    told("no such file; give image_data=", "visual_genome", path=str(folder / "refs.json"))
    told(r"its pictures are not in .*looked for 'VG_100K_2/6.jpg'.*give image_root=.*vg", "visual_genome",
         path=str(tmp_path / "region_descriptions.json"), image_data=str(tmp_path / "vg" / "image_data.json"))  # fmt: skip


def write_refs(tmp_path, refs, **changes) -> str:
    (tmp_path / "changed.json").write_text(json.dumps([{**refs[0], **changes}]))
    return str(tmp_path / "changed.json")
