from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from llava_rows import make_pictures, said, source_of, tree, turns, write_rows

from llava_kit.assemble.parts import build, build_source
from llava_kit.assemble.recognise import recognise
from llava_kit.convert.block import Settings
from llava_kit.convert.forms import FORMS
from llava_kit.convert.run import convert
from llava_kit.core.annotations import Annotations, Box
from llava_kit.core.conversation import Conversation, ImagePixels, ImageSlot, Message, Sample
from llava_kit.core.source import DataSource
from llava_kit.errors import DataError, LlavaKitError, SampleError
from llava_kit.image.reader import read_pixels

SHAPES = {"task": "instruct", "split": "test", "size": 12}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read_back(tmp_path, form):
    before = build("source", "shapes", **SHAPES)
    done = convert(before, 9, tmp_path / "out", Settings(form), described={"type": "shapes"})
    assert (done.samples, done.rejected, done.counts["pictures"]) == (9, 0, 9)
    after = build_source(recognise(str(tmp_path / "out")))
    assert len(after) == 9
    for index in range(9):
        assert after[index].id == before[index].id
        assert said(after[index]) == said(before[index])
        assert after[index].tags["kind"] == before[index].tags["kind"]
        for one, other in zip(before[index].images, after[index].images, strict=True):
            assert np.array_equal(read_pixels(one), read_pixels(other))
    manifest = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (manifest["samples"], manifest["rejected"], manifest["made_from"]["source"]) == (9, 0, {"type": "shapes"})
    assert manifest["made_from"]["fingerprint"] == before.fingerprint()
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {
        *("data.json", "data.jsonl", "images", "dataset.json", "data-00000.parquet", "data-00000.tar")
    }


def test_pictures_keep_their_bytes_and_are_written_once(tmp_path):
    source = source_of(write_rows(tmp_path, 60))
    done = convert(source, 60, tmp_path / "out")
    assert (done.samples, dict(done.bad)) == (48, {"missing_image": 6, "bad_row": 6})
    assert done.counts["pictures"] == 48  # a row of ten has two, a row of ten none
    assert done.counts["boxes padded"] == done.counts["boxes beside the text"] == 6
    originals = {path.read_bytes() for path in (tmp_path / "pics").iterdir() if path.name != "page.jpg"}
    written = [path for path in (tmp_path / "out" / "images").rglob("*") if path.is_file()]
    shown = {path.read_bytes() for path in written}
    assert len(written) == len(shown) == done.counts["picture_files"]
    assert dict(convert(source, 60, tmp_path / "out").counts) == dict(done.counts)
    assert shown <= originals
    assert {path.suffix for path in written} == {".jpg", ".png"}  # what is a PNG is called so
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [entry["index"] for entry in rejected] == [index for index in range(60) if index % 10 in (7, 9)]
    assert rejected[0]["id"] == "r7"
    assert "gone.jpg" in rejected[0]["message"]
    back = source_of(tmp_path / "out")
    assert back[0].images[0].root == str(tmp_path / "out")
    box = next(sample for sample in map(back.__getitem__, range(48)) if sample.id == "r8").annotations
    assert (box.captions, box.boxes[0].top, box.text_boxes) == (("A.",), 0.25, "padded")


@pytest.mark.parametrize("form", FORMS)
def test_two_workers_write_what_one_writes(tmp_path, monkeypatch, form):
    monkeypatch.setitem(FORMS, form, FORMS[form]._replace(block=7))
    source = source_of(write_rows(tmp_path, 61))
    for workers, folder in ((1, "a"), (3, "b")):
        convert(source, 61, tmp_path / folder, Settings(form), workers=workers)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def tell(pipe, done, total):
    os.write(pipe, b".")
    time.sleep(0.005)  # so that it is always killed before its end, however fast the machine


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("form", ["llava", "parquet"])
def test_killed_at_random_instants_the_result_is_the_same_to_the_byte(tmp_path, monkeypatch, form):
    monkeypatch.setitem(FORMS, form, FORMS[form]._replace(block=4))
    source, destination = source_of(write_rows(tmp_path, 400)), tmp_path / "killed"
    chance, kills = random.Random(7), 0
    for _ in range(4):
        receiver, sender = os.pipe()
        child = os.fork()
        if not child:
            signal.alarm(60)  # whatever happens, it does not outlive the tests
            with suppress(BaseException):
                show = partial(tell, sender)
                convert(source, 400, destination, Settings(form), workers=2, show=show)
            os._exit(0)
        os.close(sender)
        for _ in range(chance.randrange(2, 10)):
            os.read(receiver, 1)
        time.sleep(chance.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        kills += os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        os.close(receiver)
    assert kills >= 2
    assert not (destination / "dataset.json").exists()
    seen = []
    done = convert(source, 400, destination, Settings(form), show=lambda done, total: seen.append(done))
    assert 0 < done.before == seen[0] < 400  # it went on
    convert(source, 400, tmp_path / "whole", Settings(form))
    assert tree(destination) == tree(tmp_path / "whole")


def test_a_finished_folder_is_left_as_it_is(tmp_path):
    source = source_of(write_rows(tmp_path, 30))
    first = convert(source, 30, tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = convert(source, 30, tmp_path / "out")
    assert (again.counts, again.bad, again.before) == (first.counts, first.bad, 30)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times
    with pytest.raises(DataError, match=r"holds other data \(count: then 30, now 29"):
        convert(source, 29, tmp_path / "out")


def cut_short(source, count, folder, settings, after):
    """A conversion that stops after so many blocks."""

    class Stop(Exception):
        pass

    def show(done, total):
        if done >= after * FORMS[settings.form].block:
            raise Stop

    with pytest.raises(Stop):
        convert(source, count, folder, settings, show=show)


def test_what_a_crash_of_the_machine_lost_is_made_again(tmp_path, monkeypatch):
    """The journal may tell of more than reached the disk."""
    monkeypatch.setitem(FORMS, "llava", FORMS["llava"]._replace(block=5))
    source = source_of(write_rows(tmp_path, 60))
    cut_short(source, 60, tmp_path / "out", Settings(), after=8)
    part = tmp_path / "out" / "data.json.part"
    os.truncate(part, part.stat().st_size // 2)
    cut_short(source, 60, tmp_path / "out", Settings(), after=10)
    done = convert(source, 60, tmp_path / "out")
    assert done.before == 50
    convert(source, 60, tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_other_data_do_not_go_on(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMS, "llava", FORMS["llava"]._replace(block=5))
    path = write_rows(tmp_path, 20)
    cut_short(source_of(path), 20, tmp_path / "out", Settings(), after=2)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with open(path, "a") as file:
        file.write("{}\n")
    with pytest.raises(DataError, match=r"begun for something else \(fingerprint"):
        convert(source_of(path), 20, tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_kept_pictures(tmp_path):
    path = write_rows(tmp_path, 20)
    done = convert(source_of(path), 20, tmp_path / "out", Settings("jsonl", keep_root=str(tmp_path)))
    assert (done.samples, done.rejected) == (16, 4)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"data.jsonl", "dataset.json", "rejected.jsonl"}
    back = source_of(tmp_path / "out")
    assert back[0].images[0].path == "pics/0.jpg"
    assert read_pixels(back[0].images[0]).shape == (7, 9, 3)
    shapes = convert(build("source", "shapes", **SHAPES), 3, tmp_path / "drawn", Settings(keep_root=str(tmp_path)))
    assert dict(shapes.bad) == {"no_file": 3}
    away = convert(source_of(path), 2, tmp_path / "away", Settings(keep_root=str(tmp_path / "pics" / "deeper")))
    assert dict(away.bad) == {"outside_root": 2}
    with pytest.raises(LlavaKitError, match="holds the pictures themselves"):
        convert(source_of(path), 2, tmp_path / "p", Settings("webdataset", keep_root=str(tmp_path)))


@pytest.mark.parametrize("form", FORMS)
def test_clips(tmp_path, form):
    make_pictures(tmp_path / "cat", 3)
    for name in ("page.jpg", "wrong.jpg"):
        (tmp_path / "cat" / name).unlink()
    rows = [
        {"id": "v", "video": "cat", "conversations": turns("<video>\nWhat?")},
        {"id": "both", "image": "cat/0.jpg", "video": "cat", "conversations": turns("Is <video> like <image>?")},
        {"id": "typed", "video": "cat", "conversations": [*turns("<video>\nWhat?"), *turns("What is an <image2> tag?")]},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    before = source_of(tmp_path / "rows.json", frames_per_second=2.0)
    done = convert(before, 3, tmp_path / "out", Settings(form))
    if not FORMS[form].has_folder:
        assert dict(done.bad) == {"video": 3}
        return
    assert (done.samples, done.counts["clips"], done.counts["pictures"]) == (3, 3, 1)
    after = source_of(tmp_path / "out")
    for index in range(3):
        assert said(after[index]) == said(before[index])
    clip = after[0].images[0]
    assert clip.frames_per_second == 2.0
    names = sorted(os.listdir(os.path.join(clip.root, clip.path)))
    assert names == ["00000.jpg", "00001.jpg", "00002.jpg"]
    originals = [(tmp_path / "cat" / f"{number}.jpg").read_bytes() for number in range(3)]
    assert [Path(clip.root, clip.path, name).read_bytes() for name in names] == originals


class One(DataSource):
    def __init__(self, sample):
        self.sample = sample

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.sample

    def fingerprint(self):
        return "one"


def white(size):
    return np.full((size[1], size[0], 3), 255, np.uint8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "parts",
    [
        (ImageSlot(0), "\nWhat?"),
        (ImageSlot(0), "\n", "What", " is it?"),
        ("What is it?\n", ImageSlot(0)),
        (ImageSlot(0), " What? "),
        (ImageSlot(0), "\nIs <image> a tag?"),
        (ImageSlot(1), " or ", ImageSlot(0), "?"),
        ("Both: ", ImageSlot(0), ImageSlot(1)),
        (ImageSlot(0),),
        ("Is <image> a tag, </s> too?",),
    ],
)
def test_any_conversation_comes_back(tmp_path, parts, form):
    count = sum(isinstance(part, ImageSlot) for part in parts)
    messages = (Message("user", parts), Message("assistant", ("It is <image>.",)))
    images = tuple(ImagePixels(lambda size=(2 + n, 3): white(size), (2 + n, 3)) for n in range(count))
    sample = Sample("s", Conversation(messages, "Be brief."), images)
    assert convert(One(sample), 1, tmp_path / "out", Settings(form)).samples == 1
    again = build_source(recognise(str(tmp_path / "out")))[0]
    shown = [part.index for part in parts if isinstance(part, ImageSlot)]
    expected = said(sample)
    for number, slot in enumerate(shown):  # pictures are numbered in the order in which they are shown
        expected[0] = ("user", expected[0][1].replace(f"\0{slot}\0", f"\1{number}\1"))
    assert said(again) == [(role, text.replace("\1", "\0")) for role, text in expected]
    assert again.conversation.system == "Be brief."
    assert [read_pixels(image).shape[1::-1] for image in again.images] == [(2 + slot, 3) for slot in shown]


@pytest.mark.parametrize("form", FORMS)
def test_half_a_surrogate_pair(tmp_path, form):
    text = "half \ud800"
    sample = Sample("s", Conversation((Message("user", (text,)), Message("assistant", ("A.",)))))
    done = convert(One(sample), 1, tmp_path / "out", Settings(form))
    if form == "parquet":
        assert dict(done.bad) == {"bad_text": 1}
    else:
        assert build_source(recognise(str(tmp_path / "out")))[0].conversation == sample.conversation


def test_numbers_that_json_does_not_have(tmp_path):
    notes = Annotations(boxes=(Box("cat", 0, 0, float("nan"), 1),))
    sample = Sample("s", Conversation((Message("user", ("Q",)), Message("assistant", ("A.",)))), annotations=notes)
    for form in FORMS:
        assert dict(convert(One(sample), 1, tmp_path / form, Settings(form)).bad) == {"bad_number": 1}


def test_parquet_has_row_groups_and_pictures_that_others_see(tmp_path, monkeypatch):
    datasets, parquet = pytest.importorskip("datasets"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("llava_kit.convert.parquet_shard.GROUP", 10)
    monkeypatch.setitem(FORMS, "parquet", FORMS["parquet"]._replace(block=50))
    convert(source_of(write_rows(tmp_path, 60)), 60, tmp_path / "out", Settings("parquet"))
    files = [parquet.ParquetFile(tmp_path / "out" / f"data-0000{number}.parquet") for number in range(2)]
    assert [(file.metadata.num_rows, file.metadata.num_row_groups) for file in files] == [(40, 4), (8, 1)]
    features = datasets.Features.from_arrow_schema(files[0].schema_arrow)
    assert features["images"].feature == datasets.Image()
    row = files[0].read().to_pylist()[0]
    assert row["images"] == [{"bytes": (tmp_path / "pics" / "0.jpg").read_bytes(), "path": "000000000.0.jpg"}]
    assert row["conversations"][0] == {"from": "human", "value": "<image>\nNo. 0?"}


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(LlavaKitError, match=r"pip install 'llava-kit\[data\]'"):
        convert(build("source", "shapes", **SHAPES), 3, tmp_path / "out", Settings("parquet"))
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_of_a_sample_that_is_refused(tmp_path):
    """Its first picture is well, its second is not."""
    make_pictures(tmp_path / "pics")
    rows = [{"id": "x", "image": ["pics/1.jpg", "pics/page.jpg"], "conversations": turns("<image><image>")}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    done = convert(source_of(tmp_path / "rows.json"), 1, tmp_path / "out")
    assert dict(done.bad) == {"unreadable_image": 1}
    assert json.loads((tmp_path / "out" / "data.json").read_text()) == []
    assert not (tmp_path / "out" / "images").exists()


def test_a_source_that_cannot_be_read_stops_the_work(tmp_path):
    class Gone(One):
        def __getitem__(self, index):
            raise FileNotFoundError(2, "no", "/away/rows.json")

    with pytest.raises(DataError, match=r"/away/rows\.json: cannot be read: No such file") as caught:
        convert(Gone(None), 1, tmp_path / "out")
    assert not isinstance(caught.value, SampleError)
