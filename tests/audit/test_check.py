from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from planted import DataSet, encoded, photograph, plant_all, turns

from llava_kit.assemble.parts import build
from llava_kit.audit.check import check
from llava_kit.audit.reasons import OF_TOOLS, REASONS
from llava_kit.convert.block import Settings
from llava_kit.convert.run import convert
from llava_kit.core.source import DataSource
from llava_kit.errors import LlavaKitError

# What the data and splits of one file cannot show: other splits, and what only a recipe knows.
ELSEWHERE = {
    "bad_encoding",
    "source_failed",
    "bad_box",
    "leaked_sample",
    "leaked_picture",
    "near_leaked_picture",
    "stop_string",
    "too_many_bytes",
}
OF_TRAINING = {"too_long", "dropped_turns", "no_targets", "few_targets", "unknown_token"}


def checked(path, **options):
    found = []
    report = check(build("source", "llava_json", path=str(path)), on_finding=found.append, **options)
    return report, found


def test_every_planted_fault_is_found_and_nothing_else(tmp_path):
    data = DataSet(tmp_path, seed=5)
    data.clean(200)
    plant_all(data)
    path = data.write(shuffled=False)
    report, found = checked(path)
    assert len(data.planted) >= 40
    assert {reason for _, reason in data.planted} == set(REASONS) - set(OF_TOOLS) - ELSEWHERE - OF_TRAINING
    row_of = {row["id"]: number for number, row in enumerate(data.rows)}
    expected = sorted((row_of[name], reason) for name, reason in data.planted)
    assert sorted((finding.row, finding.reason) for finding in found) == expected
    for finding in found:  # a row that is no JSON has no id
        assert finding.id == (f"row {finding.row}" if finding.reason == "bad_number" else data.rows[finding.row]["id"])
    assert report.counts == Counter(reason for _, reason in data.planted)
    assert report.samples == len(data.rows)
    assert report.bad == len({row for row, reason in expected if REASONS[reason].severity == "error"})


def test_a_clean_set_has_no_finding(tmp_path):
    data = DataSet(tmp_path, seed=6)
    data.clean(200)
    report, found = checked(data.write())
    assert found == []
    assert (report.samples, report.bad, report.doubtful, report.fails(strict=True)) == (200, 0, 0, False)
    assert report.pictures == 200
    assert report.spread["turns"] == {2: 50, 4: 50, 6: 100}


@pytest.mark.parametrize(
    ("task", "detail", "size"), [("captions", "plain", 300), ("instruct", "plain", 100), ("instruct", "fine", 40)]
)
def test_the_picture_world_has_no_finding(task, detail, size):
    """Its pictures look alike at low resolution: a few flat shapes on a plain ground."""
    report = check(build("source", "shapes", task=task, size=size, detail=detail))
    assert dict(report.counts) == {}
    assert report.pictures == size


def test_the_picture_world_on_disk_has_no_finding(tmp_path):
    source = build("source", "shapes", task="instruct", size=60)
    convert(source, 60, tmp_path / "out", Settings("llava", None, None), described={}, workers=1)
    report, found = checked(tmp_path / "out" / "data.json")
    assert found == []
    assert report.pictures == 60


def test_all_mistakes_of_one_row(tmp_path):
    data = DataSet(tmp_path)
    data.picture("really.jpg", encoded(photograph(1, (8, 8)), "PNG"))
    row = {
        "id": "all",
        "image": ["images/gone.jpg", "images/really.jpg"],
        "boxes": [{"label": "", "box": [0.9, 0.1, 0.1, 1.8]}],
        "conversations": turns("<image><image>\nWhat?", "A cafÃ©.</s>", "", " "),
    }
    refused = {
        "id": "refused",
        "image": ["images/gone.jpg", "images/really.jpg"],
        "conversations": [*turns("<image>\nWhat? USER: who", "A\0."), {"from": "robot", "value": "beep"}],
    }
    data.rows = [row, refused]
    _, found = checked(data.write(shuffled=False), workers=0)
    assert sorted(finding.reason for finding in found if finding.row == 0) == sorted(
        [
            "missing_image",
            "wrong_extension",
            "tiny_image",
            "box_without_label",
            "box_empty",
            "box_outside",
            "mojibake",
            "special_token",
            "empty_question",
            "empty_answer",
        ]
    )
    assert sorted(finding.reason for finding in found if finding.row == 1) == sorted(
        ["bad_turns", "missing_image", "wrong_extension", "tiny_image", "role_marker", "null_character"]
    )
    about = {finding.reason: finding.picture for finding in found}
    assert (about["missing_image"], about["tiny_image"]) == ("images/gone.jpg", "images/really.jpg")


def test_workers_change_nothing(tmp_path):
    data = DataSet(tmp_path, seed=7)
    data.clean(60)
    plant_all(data)
    path = data.write()
    _, alone = checked(path, workers=0)
    report, together = checked(path, workers=3)
    assert alone == together
    assert json.loads(json.dumps(report.as_dict()))["samples"] == len(data.rows)


def test_headers_alone_find_all_but_what_is_within(tmp_path):
    data = DataSet(tmp_path, seed=8)
    plant_all(data)
    report, found = checked(data.write(shuffled=False), decode=False, workers=0)
    within = {"truncated_image", "blank_image", "duplicate_picture", "near_duplicate_picture"}
    assert {finding.reason for finding in found} == {reason for _, reason in data.planted} - within
    assert not report.decoded


def test_what_other_splits_have_too(tmp_path):
    train, test = DataSet(tmp_path / "train", seed=1), DataSet(tmp_path / "test", seed=2)
    train.clean(40)
    test.clean(40)
    shared = encoded(photograph(901), quality=90)
    like = encoded(photograph(902).resize((120, 90)), quality=70)
    test.rows += [
        {"id": "a", "image": test.picture("a.jpg", shared), "conversations": turns("<image>\nWhat is this?", "A tree.")},
        {
            "id": "b",
            "image": test.picture("b.jpg", encoded(photograph(902), quality=90)),
            "conversations": turns("<image>\nWhy?", "So."),
        },
        {"id": "c", "conversations": turns("Who wrote it down?", "A clerk.")},
    ]
    for name, words in (("same", "What  is THIS?"), ("other", "How old is it?")):
        train.plant("leak", name, image=train.picture("shared.jpg", shared), conversations=turns(f"<image>\n{words}", "Old."))
    train.plant("leak", "like", image=train.picture("like.jpg", like))
    train.plant("leak", "text", image=None, conversations=turns("Who wrote it down?", "A clerk."))
    # The kind sums of both sets are the same text: that is a leak too, and is told.
    train.rows = [row for row in train.rows if "image" in row or row["id"] == "text"]
    found = []
    source, other = (build("source", "llava_json", path=str(data.write(shuffled=False))) for data in (train, test))
    report = check(source, against={"test": other}, on_finding=found.append)
    assert [(finding.id, finding.reason) for finding in found] == [
        ("same", "leaked_sample"),
        ("text", "leaked_sample"),
        ("other", "leaked_picture"),
        ("like", "near_leaked_picture"),
    ]
    assert "row 40 of test" in found[0].message
    assert report.against == {"test": 43}


class Broken(DataSource):
    """A source with a fault of its own at one row."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        if index == 3:
            raise KeyError("oops")
        return self.source[index]

    def fingerprint(self):
        return "broken"


def test_a_source_that_fails_at_a_row_hides_no_other():
    report = check(Broken(build("source", "shapes", task="captions", size=70)))
    (finding,) = report.kept["source_failed"]
    assert (finding.row, finding.id) == (3, "row 3")
    assert "KeyError" in finding.message
    assert report.spread["pictures"] == {1: 69}


class Dying(Broken):
    def __getitem__(self, index):
        if index == 40:
            os._exit(9)
        return self.source[index]


def test_a_worker_that_dies_is_told():
    with pytest.raises(LlavaKitError, match=r"data worker .* exit code 9.*--workers 1"):
        check(Dying(build("source", "shapes", task="captions", size=70)))


def test_memory_does_not_grow_with_findings():
    source = build("source", "shapes", task="captions", size=64)

    class Bad(Broken):
        def __getitem__(self, index):
            raise KeyError(index)

        def __len__(self):
            return 640

    report = check(Bad(source), workers=0)
    assert report.counts == {"source_failed": 640}
    assert len(report.kept["source_failed"]) == 20
    assert sys.getsizeof(report.kept["source_failed"]) < 1000


def test_tools_for_data_load_no_torch():
    rooms = "audit.check", "audit.page", "audit.stats", "captions.run", "convert.run", "view.server", "view.static"
    code = "".join(f"import llava_kit.{room}\n" for room in rooms) + "import sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
