"""COCO's files as they are published: captions and boxes of a picture come together, and what is wrong is told by name."""

from __future__ import annotations

import json
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_kit.assemble.parts import build
from llava_kit.assemble.recognise import recognise
from llava_kit.core.annotations import Box
from llava_kit.core.conversation import ImageFile
from llava_kit.errors import DataError, LlavaKitError, SampleError
from llava_kit.store.row import row_of
from llava_kit_coco import recognise_coco
from llava_kit_coco.boxes import pixel_box
from llava_kit_coco.grouping import Groups, Numbers, whole_numbers

INFO = {"description": "COCO 2017 Dataset", "url": "http://cocodataset.org", "year": 2017}
LICENSES = [{"url": "http://creativecommons.org/licenses/by-nc-sa/2.0/", "id": 1, "name": "Attribution"}]
CATEGORIES = [
    {"supercategory": "person", "id": 1, "name": "person"},
    {"supercategory": "kitchen", "id": 90, "name": "toothbrush"},
]


def image_row(number: int, width: int = 200, height: int = 100) -> dict:
    return {
        "license": 1,
        "file_name": f"{number:012d}.jpg",
        "coco_url": f"http://images.cocodataset.org/train2017/{number:012d}.jpg",
        "height": height,
        "width": width,
        "date_captured": "2013-11-14 11:18:45",
        "id": number,
    }


def object_row(number: int, image: int, bbox, category: int = 1, crowd: int = 0) -> dict:
    outline = {"counts": [272, 2, 4], "size": [100, 200]} if crowd else [[1.5, 2.0, 3.5, 2.0]]
    row = {"segmentation": outline, "area": 54.6, "iscrowd": crowd, "image_id": image, "bbox": bbox}
    return {**row, "category_id": category, "id": number}


def write(path, section: dict) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"info": INFO, "licenses": LICENSES, **section}))
    return str(path)


def captions_file(tmp_path, images=(9, 25, 30), each=5, name="captions_train2017.json") -> str:
    rows = [
        {"image_id": image, "id": 100 * image + number, "caption": f"Caption {number} of {image}.\n"}
        for number in range(each)
        for image in images
    ]
    return write(tmp_path / "annotations" / name, {"images": [image_row(image) for image in images], "annotations": rows})


def instances_file(tmp_path, rows=None, images=(30, 9, 25)) -> str:
    if rows is None:
        rows = [
            object_row(1, 9, [20.0, 10.0, 100.0, 50.0]),
            object_row(2, 30, [0, 0, 200, 100], 90),
            object_row(3, 9, [199.5, 99.0, 1.4, 1.9], 90),
            object_row(900100000001, 9, [1, 2, 3, 4], crowd=1),
        ]
    return write(
        tmp_path / "annotations" / "instances_train2017.json",
        {"images": [image_row(image) for image in images], "annotations": rows, "categories": CATEGORIES},
    )


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "train2017"
    folder.mkdir()
    for number in (9, 25, 30):
        (folder / f"{number:012d}.jpg").write_bytes(b"")
    return str(folder)


def coco(**options):
    return build("source", "coco", **options)


def said(sample) -> list[str]:
    return [message.text for message in sample.conversation.messages]


def test_annotations_hold_all_captions_and_boxes_of_a_picture(tmp_path, pictures):
    """What `data generate` is fed: the record form of LLaVA's caps_boxes files."""
    source = coco(
        captions=captions_file(tmp_path),
        instances=instances_file(tmp_path),
        image_root=pictures,
        task="annotations",
        request="Say.",
    )
    assert [sample.id for sample in source] == ["000000000009", "000000000025", "000000000030"]
    sample = source[0]
    assert sample.images == (ImageFile("000000000009.jpg", pictures),)
    assert sample.annotations.captions == tuple(f"Caption {number} of 9." for number in range(5))
    # The second stands out by less than a pixel, and is cut; the crowd is left out, and counted.
    assert sample.annotations.boxes == (Box("person", 0.1, 0.1, 0.6, 0.6), Box("toothbrush", 0.9975, 0.99, 1.0, 1.0))
    assert sample.tags == {"source": "coco", "image_id": 9, "crowds_left_out": 1}
    assert said(sample) == ["\nSay.", "Caption 0 of 9."]
    assert source[1].annotations.boxes == ()
    assert source[2].annotations.boxes == (Box("toothbrush", 0.0, 0.0, 1.0, 1.0),)
    row = row_of(sample, ["9.jpg"])
    assert row["boxes"][0] == {"label": "person", "box": [0.1, 0.1, 0.6, 0.6]}
    assert len(row["captions"]) == 5
    crowds = coco(instances=instances_file(tmp_path), task="annotations", crowds=True, image_root=pictures)
    assert [len(crowds[index].annotations.boxes) for index in range(3)] == [1, 3, 0]
    assert len(crowds[0].conversation.messages) == 1  # nobody said a word about it


def test_one_caption_is_drawn_by_the_seed_or_each_is_a_row(tmp_path, pictures):
    path = captions_file(tmp_path)
    options = {"path": path, "image_root": str(tmp_path), "image_prefix": "train2017"}
    source = coco(**options)
    assert source[0].images[0].name == "train2017/000000000009.jpg"
    texts = [said(sample)[1] for sample in source]
    assert [text.endswith(f"of {number}.") for text, number in zip(texts, (9, 25, 30))] == [True] * 3
    assert texts == [said(sample)[1] for sample in reversed([source[2], source[1], source[0]])]
    drawn = {tuple(said(sample)[1] for sample in coco(**options, seed=seed)) for seed in range(8)}
    assert len(drawn) > 2
    each = coco(**options, task="each_caption")
    assert len(each) == 15
    assert [said(each[index])[1] for index in range(3)] == [f"Caption 0 of {number}." for number in (9, 25, 30)]
    assert len({sample.id for sample in each}) == 15
    assert len(each[7].annotations.captions) == 5
    copy = pickle.loads(pickle.dumps(each))
    assert copy[4] == each[4]
    assert copy.fingerprint() == each.fingerprint() != source.fingerprint()


def test_known_by_its_contents(tmp_path, pictures):
    for path in (captions_file(tmp_path), instances_file(tmp_path)):
        part = recognise(path, {"image_root": pictures})
        assert part.type == "coco"
    for other in (
        {"info": INFO, "data_type": "mscoco", "annotations": [{"question_id": 1, "image_id": 2}]},
        {"annotations": [{"question_id": 1, "image_id": 2, "answers": []}]},
        {"images": [], "questions": []},
        [image_row(3)],
    ):
        assert recognise_coco("x.json", json.dumps(other).encode()) is None


BAD = {
    "nan": [math.nan, 1, 2, 3],
    "negative": [1, 1, -2, 3],
    "outside": [150, 10, 52, 10],
    "before": [-2, 10, 50, 10],
    "three": [1, 2, 3],
    "text": ["1", 2, 3, 4],
    "none": None,
    "infinite": [1, 2, math.inf, 3],
    "true": [True, 2, 3, 4],
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_boxes_are_told_or_counted(tmp_path, pictures, kind):
    path = instances_file(
        tmp_path, [object_row(1, 9, BAD[kind]), object_row(2, 9, [1, 1, 2, 2]), object_row(3, 25, [1, 1, 2, 2])]
    )
    source = coco(instances=path, task="annotations", image_root=pictures)
    with pytest.raises(SampleError, match="box of 'person'") as caught:
        source[1]
    assert (caught.value.reason, caught.value.sample_id) == ("bad_box", "000000000009")
    assert len(source[2].annotations.boxes) == 1  # a bad box spoils its own picture alone
    lenient = coco(instances=path, task="annotations", image_root=pictures, bad_boxes="drop")
    assert len(lenient[1].annotations.boxes) == 1
    assert lenient[1].tags["boxes_left_out"] == 1


@given(corner=st.tuples(st.floats(-3, 210), st.floats(-3, 110)), extent=st.tuples(st.floats(-1, 210), st.floats(-1, 110)))
@settings(max_examples=150, deadline=None)
def test_a_box_is_within_its_picture_or_refused(corner, extent):
    far = [min(corner), corner[0] + extent[0] - 200, corner[1] + extent[1] - 100]
    outside = far[0] < -1 or max(far[1:]) > 1 or corner[0] > 201 or corner[1] > 101 or min(extent) < 0
    outside |= min(corner[0] + extent[0], corner[1] + extent[1]) < -1
    if outside:
        with pytest.raises(SampleError, match="box of 'thing'"):
            pixel_box("thing", [*corner, *extent], (200, 100))
        return
    box = pixel_box("thing", [*corner, *extent], (200, 100))
    assert 0 <= box.left <= box.right <= 1
    assert 0 <= box.top <= box.bottom <= 1


def test_what_is_missing_or_mixed_up_is_told(tmp_path, pictures):
    captions, instances = captions_file(tmp_path), instances_file(tmp_path)
    root = {"image_root": pictures}
    with pytest.raises(DataError, match=r"captions: .*instances_train2017.*'bbox'.*give it as instances="):
        coco(captions=instances, **root)
    with pytest.raises(DataError, match="give it as captions="):
        coco(instances=captions, **root)
    with pytest.raises(DataError, match=r"no captions, which task 'caption' needs; give captions="):
        coco(path=instances, **root)
    with pytest.raises(DataError, match=r"holds captions, and captions=.* is given too"):
        coco(path=captions, captions=captions, **root)
    with pytest.raises(LlavaKitError, match="names no file"):
        coco(**root)
    other = captions_file(tmp_path, images=(7, 8), name="captions_val2017.json")
    with pytest.raises(DataError, match="no picture in common"):
        coco(captions=other, instances=instances, **root)
    with pytest.raises(DataError, match="image_root '/nowhere': found nothing"):
        coco(path=captions, image_root="/nowhere")
    with pytest.raises(DataError, match=rf"its pictures are not in .*give image_root={pictures}"):
        coco(path=captions)
    with pytest.raises(DataError, match=rf"give image_root={tmp_path};"):
        coco(path=captions, image_prefix="train2017")
    with pytest.raises(DataError, match=rf"give image_root={pictures} image_prefix=;"):
        coco(path=captions, image_prefix="val2017")
    assert coco(path=captions, without_pictures=True)[0].images
    (tmp_path / "llava.json").write_text("[]")
    with pytest.raises(DataError, match=r"captions: .*begins with '\['.*expected COCO's captions_\*.json"):
        coco(captions=str(tmp_path / "llava.json"), **root)
    lost = write(tmp_path / "lost.json", {"images": [], "annotations": [{"image_id": 5, "caption": "A."}]})
    with pytest.raises(DataError, match=r"1 of 1 annotations are about pictures that .images. does not have.*about 5"):
        coco(captions=lost, **root)
    twice = write(tmp_path / "twice.json", {"images": [image_row(3), image_row(3)], "annotations": []})
    with pytest.raises(DataError, match="the id 3 twice"):
        coco(captions=twice, **root)
    texts = write(tmp_path / "texts.json", {"images": [{"id": "x"}], "annotations": []})
    with pytest.raises(DataError, match="row 0 'id' is \"x\"; expected a whole number"):
        coco(captions=texts, **root)
    (tmp_path / "test_info.json").write_text(json.dumps({"info": INFO, "images": [image_row(3)]}))
    with pytest.raises(DataError, match=r"no list 'annotations'; its lists are 'images'"):
        coco(path=str(tmp_path / "test_info.json"), **root)


def test_pictures_that_one_file_alone_has_are_kept(tmp_path, pictures):
    captions = captions_file(tmp_path, images=(9,))
    source = coco(captions=captions, instances=instances_file(tmp_path), image_root=pictures)
    assert len(source) == 3
    with pytest.raises(SampleError) as caught:
        source[1]
    assert (caught.value.reason, caught.value.sample_id) == ("no_caption", "000000000030")


@pytest.mark.parametrize(("change", "reason"), [("unknown", "unknown_category"), ("empty", "empty_caption")])
def test_rows_that_cannot_be_used(tmp_path, pictures, change, reason):
    if change == "unknown":
        source = coco(
            instances=instances_file(tmp_path, [object_row(1, 30, [1, 1, 2, 2], 3)]), task="annotations", image_root=pictures
        )
    else:
        rows = [{"image_id": 30, "id": 1, "caption": " \n"}]
        source = coco(path=write(tmp_path / "c.json", {"images": [image_row(30)], "annotations": rows}), image_root=pictures)
    with pytest.raises(SampleError) as caught:
        source[0]
    assert caught.value.reason == reason


def test_memory_is_some_bytes_an_object(tmp_path):
    """Not the parsed rows: those of this file take over a kilobyte each."""
    count, generator = 20_000, np.random.default_rng(0)
    owners = generator.integers(0, 2000, count).tolist()
    outline = generator.random((count, 20)).round(3).tolist()
    rows = [{**object_row(number, owners[number], [1, 2, 3, 4]), "segmentation": [outline[number]]} for number in range(count)]
    path = instances_file(tmp_path, rows, images=range(2000))
    del rows, outline
    build("source", "shapes", task="captions")  # what every source loads is loaded
    tracemalloc.start()
    source = coco(instances=path, task="annotations", without_pictures=True)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 60 * count
    assert peak < 400 * count  # a block of the file and its masks are 5 MB, whatever the count
    assert sum(len(source[index].annotations.boxes) for index in range(100)) == sum(owner < 100 for owner in owners)


@given(owners=st.lists(st.integers(-1, 6), max_size=40))
def test_groups_are_what_a_loop_finds(owners):
    groups = Groups(np.array(owners, np.int32), 7)
    assert [groups.rows(owner) for owner in range(7)] == [
        [row for row, mine in enumerate(owners) if mine == owner] for owner in range(7)
    ]


@given(ids=st.lists(st.integers(-5, 30), unique=True), wanted=st.integers(-6, 31))
def test_numbers_find_ids(ids, wanted):
    assert Numbers(np.array(ids, np.int64), "x").place(wanted) == (ids.index(wanted) if wanted in ids else -1)


def test_ids_are_those_of_the_row_itself(tmp_path):
    """Not of what is in it, nor of what a text says."""
    from llava_kit.core.json_rows import JsonRows

    rows = [
        {"more": {"id": 5}, "id": 1},
        {"caption": 'he wrote "id": 7, and left', "id": 2},
        {"image_id": 9, "id": -3},
        {"list": [{"id": 6}], "id": 4},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert whole_numbers(JsonRows(str(tmp_path / "rows.json")), "id").tolist() == [1, 2, -3, 4]


def caps_boxes(tmp_path, rows, **options):
    path = tmp_path / "caps_boxes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert recognise(str(path)).type == "caps_boxes"
    return build("source", "caps_boxes", path=str(path), **options)


def test_caps_boxes_of_llava(tmp_path):
    row = {
        "id": "000000215259",
        "image": "COCO_val2014_000000215259.jpg",
        "captions": [f"Caption {number}" for number in range(5)],
        "instances": [{"category": "person", "bbox": [0.1, 0.2, 0.35, 1.0]}, {"category": "cup", "bbox": [0, 0, 1.004, 1]}],
    }
    sample = caps_boxes(tmp_path, [row], image_root="/pictures", without_pictures=True)[0]
    assert sample.id == "000000215259"
    assert sample.images == (ImageFile("COCO_val2014_000000215259.jpg", "/pictures"),)
    assert sample.annotations.captions == tuple(row["captions"])
    assert sample.annotations.boxes == (Box("person", 0.1, 0.2, 0.35, 1.0), Box("cup", 0.0, 0.0, 1.0, 1.0))
    assert sample.tags == {"source": "caps_boxes"}


def test_caps_boxes_of_the_picture_world(tmp_path):
    """Records in pixels, with the picture's size and without a picture."""
    shapes = build("source", "shapes", task="captions", size=5)
    source = caps_boxes(tmp_path, [shapes.record(index) for index in range(5)])
    for index in range(5):
        record, sample = shapes.record(index), source[index]
        assert list(sample.annotations.captions) == record["captions"]
        assert sample.images == ()
        assert sample.conversation.messages[0].text == source.options.request
        for box, thing in zip(sample.annotations.boxes, record["instances"], strict=True):
            x, y, width, height = thing["bbox"]
            expected = [
                x / record["width"],
                y / record["height"],
                (x + width) / record["width"],
                (y + height) / record["height"],
            ]
            assert box.label == thing["category"]
            assert list(box[1:]) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "reason", "told"),
    [
        ({"instances": [{"category": "cup", "bbox": [10, 20, 30, 40]}]}, "bad_box", "expected shares from 0 to 1"),
        ({"instances": [{"category": "cup", "bbox": [0.5, 0.2, 0.3, 0.4]}]}, "bad_box", "before its left"),
        ({"instances": [{"bbox": [0, 0, 1, 1]}]}, "bad_row", "expected an object with `category`"),
        ({"instances": {}}, "bad_row", "expected a list"),
        ({"width": 0, "height": 3}, "bad_row", "has width 0 and height 3"),
        ({"captions": [3]}, "bad_row", "its caption is '3'"),
        ({"captions": [""]}, "empty_caption", "is empty"),
    ],
)
def test_caps_boxes_that_cannot_be_used(tmp_path, changes, reason, told):
    source = caps_boxes(tmp_path, [{"id": "a", "captions": ["A."], "instances": [], **changes}])
    with pytest.raises(SampleError, match=told) as caught:
        source[0]
    assert (caught.value.reason, caught.value.sample_id) == (reason, "a")


def test_coco_and_caps_boxes_say_the_same(tmp_path):
    """The picture world written in both forms: five captions and all boxes of a picture, to the last digit."""
    shapes = build("source", "shapes", task="captions", size=4)
    records = [{**shapes.record(index), "image": f"{index}.png"} for index in range(4)]
    names = sorted({thing["category"] for record in records for thing in record["instances"]})
    images = [
        {"id": index, "file_name": record["image"], "width": record["width"], "height": record["height"]}
        for index, record in enumerate(records)
    ]
    said = [{"image_id": index, "caption": text} for index, record in enumerate(records) for text in record["captions"]]
    things = [
        {"image_id": index, "bbox": thing["bbox"], "iscrowd": 0, "category_id": names.index(thing["category"])}
        for index, record in enumerate(records)
        for thing in record["instances"]
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    source = coco(
        captions=write(tmp_path / "captions.json", {"images": images, "annotations": said}),
        instances=write(tmp_path / "instances.json", {"images": images, "annotations": things, "categories": categories}),
        task="annotations",
        without_pictures=True,
    )
    rows = caps_boxes(tmp_path, records, without_pictures=True)
    assert [sample.annotations for sample in source] == [sample.annotations for sample in rows]
    assert [sample.images for sample in source] == [sample.images for sample in rows]
    assert all(len(sample.annotations.captions) == 5 and sample.annotations.boxes for sample in source)
