"""Shards of WebDataset: members with one name are one sample, read by place from tar, compressed tar and zip."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import tarfile
import tempfile
import warnings
import zipfile

import pytest
from PIL import Image

from llava_kit.assemble.parts import build
from llava_kit.assemble.recognise import recognise
from llava_kit.core.conversation import ImageBytes
from llava_kit.errors import DataError, SampleError
from llava_kit.image.reader import read_picture

TALK = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]


def png(number=0) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), (number % 256, 9, 9)).save(out, "PNG")
    return out.getvalue()


def pack(path, members):
    """`members`: (name, bytes) in order; the kind follows from the ending."""
    if str(path).endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members:
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if str(path).endswith("gz") else "w") as archive:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return str(path)


def rows(first, count, suffix=".png"):
    for number in range(first, first + count):
        yield f"{number:04d}{suffix}", png(number)
        yield (
            f"{number:04d}.json",
            json.dumps({"id": f"r{number}", "image": "was/elsewhere.jpg", "conversations": TALK}).encode(),
        )


def open_source(path, **options):
    return build("source", "webdataset", path=path, **options)


def said(sample):
    return [
        (message.role, "".join(part if isinstance(part, str) else f"<{part.index}>" for part in message.parts))
        for message in sample.conversation.messages
    ]


def one(tmp_path, members, **options):
    return open_source(pack(tmp_path / "t.tar", members), **options)[0]


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".zip"])
def test_every_kind_of_archive_by_number(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spool"))
    (tmp_path / "spool").mkdir()
    path = pack(tmp_path / f"a{ending}", rows(0, 20))
    assert recognise(path).type == "webdataset"
    source = open_source(path)
    assert len(source) == 20
    for number in (19, 3, 0, -1):
        sample = source[number]
        place = number % 20
        assert (sample.id, sample.tags) == (f"r{place}", {"source": "a"})
        assert said(sample) == [("user", "<0>\nWhat?"), ("assistant", "A cat.")]
        assert sample.images == (ImageBytes(png(place), f"{place:04d}.png"),)
        assert read_picture(sample.images[0]).size == (8, 6)
    copy = pickle.loads(pickle.dumps(source))
    assert copy[7].id == "r7"
    assert len(os.listdir(tmp_path / "spool")) == ("gz" in ending)
    del copy
    assert source[8].id == "r8"
    del source
    assert os.listdir(tmp_path / "spool") == [], "what was unpacked goes with the source"


def test_shards_in_braces_folders_and_lists(tmp_path):
    for number in range(3):
        pack(tmp_path / f"s-{number:03d}.tar", rows(10 * number, 10))
    ids = [f"r{number}" for number in range(30)]
    by_braces = open_source(str(tmp_path / "s-{000..002}.tar"))
    assert [by_braces[number].id for number in range(30)] == ids
    assert recognise(str(tmp_path)).type == "webdataset"
    for path in (str(tmp_path), str(tmp_path / "s-*.tar"), [str(tmp_path / "s-000.tar"), str(tmp_path / "s-{001,002}.tar")]):
        source = open_source(path)
        assert [source[number].id for number in range(30)] == ids
        assert source.fingerprint() == by_braces.fingerprint()
    assert open_source(str(tmp_path / "s-{000..001}.tar")).fingerprint() != by_braces.fingerprint()
    with pytest.raises(DataError, match=r"s-003.tar: there is no such file or folder .*did you mean"):
        open_source(str(tmp_path / "s-{000..003}.tar"))


def test_splits_are_not_mixed(tmp_path):
    pack(tmp_path / "train-0.tar", rows(0, 2))
    pack(tmp_path / "val-0.tar", rows(2, 1))
    with pytest.raises(DataError, match=r"holds the splits train \(1 files\), validation \(1 files\); say which"):
        open_source(str(tmp_path))
    assert open_source(str(tmp_path), split="validation")[0].id == "r2"
    with pytest.raises(DataError, match="no files of split 'tain'; did you mean 'train'"):
        open_source(str(tmp_path), split="tain")


def test_a_text_is_a_caption(tmp_path):
    sample = one(tmp_path, [("x/1.jpg", png()), ("x/1.txt", b"A cat.\n")], instruction="Say it.")
    assert (sample.id, said(sample)) == ("x/1", [("user", "<0>\nSay it."), ("assistant", "A cat.")])
    assert sample.annotations.captions == ("A cat.",)


@pytest.mark.parametrize("order", [1, -1])
def test_of_json_and_text_the_json_goes_first(tmp_path, order):
    members = [("1.json", b'{"caption": "from json", "url": "http://x"}'), ("1.txt", b"from text"), ("1.png", png())][::order]
    assert said(one(tmp_path, members))[1] == ("assistant", "from json")
    members = [("1.json", b'{"url": "http://x", "width": 3}'), ("1.txt", b"from text"), ("1.png", png())][::order]
    assert said(one(tmp_path, members))[1] == ("assistant", "from text")


def test_questions_and_several_pictures(tmp_path):
    data = json.dumps({"question": "Same?", "answer": "No."}).encode()
    members = [(f"1.{number}.png", png(number)) for number in (10, 2, 1)] + [("1.json", data)]
    sample = one(tmp_path, members)
    assert said(sample)[0] == ("user", "<0><1><2>\nSame?")
    assert [picture.data for picture in sample.images] == [png(1), png(2), png(10)], "in the order of their numbers"


def test_members_need_not_stand_together(tmp_path):
    members = list(rows(0, 30))
    random.Random(3).shuffle(members)
    source = open_source(pack(tmp_path / "t.tar", members))
    assert sorted(source[number].id for number in range(30)) == sorted(f"r{number}" for number in range(30))
    assert all(source[number].images for number in range(30))


def test_what_is_not_read_is_told_and_never_opened(tmp_path):
    members = [*rows(0, 2), ("0000.cls", b"7"), ("0001.cls", b"7"), ("0000.pyd", pickle.dumps(print)), ("._0000.png", b"?")]
    with pytest.warns(UserWarning, match=r"members that are not read: \.cls \(2\), .*pickles and arrays are never opened"):
        source = open_source(pack(tmp_path / "t.tar", members))
    assert source.ignored == {".cls": 2, ".pyd": 1, "._0000.png": 1}
    assert len(source) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_source(pack(tmp_path / "clean.tar", rows(0, 2)))


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("1.json", b"{broken"), ("1.png", png())], "member 1.json is no JSON"),
        ([("1.json", b"[1]"), ("1.png", png())], "member 1.json is a list; expected an object"),
        ([("1.txt", b"\xff\xfe\x00"), ("1.png", png())], "member 1.txt is no text in UTF-8"),
        ([("1.png", png())], "found no conversation, no question with an answer, and no caption"),
    ],
)
def test_a_bad_member_spoils_its_own_sample(tmp_path, members, told):
    source = open_source(pack(tmp_path / "t.tar", [*members, *rows(5, 1)]))
    with pytest.raises(SampleError) as error:
        source[0]
    assert (error.value.reason, error.value.sample_id) == ("bad_row", "1")
    assert told in error.value.message
    assert source[1].id == "r5"


def test_a_fork_reads_on_its_own(tmp_path):
    source = open_source(pack(tmp_path / "t.tgz", rows(0, 3)))
    source[0]
    child = os.fork()
    if child == 0:
        right = source[1].id == "r1"
        del source
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert source[2].id == "r2", "the child left the unpacked file in its place"
