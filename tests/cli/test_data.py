from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from llava_kit.assemble.parts import build
from llava_kit.cli.main import main
from llava_kit.convert.export import export_samples
from llava_kit.core.conversation import Conversation, ImagePixels, ImageSlot, Message, Sample
from llava_kit.image.reader import read_pixels
from llava_kit.store.row import row_of

SHAPES = "{type: shapes, task: instruct, split: test, size: 12}"


def said(sample) -> list:
    """Turns with neighbouring texts joined."""
    return [
        (message.role, "".join(part if isinstance(part, str) else f"\0{part.index}\0" for part in message.parts))
        for message in sample.conversation.messages
    ]


def test_exported_samples_come_back(tmp_path, capsys):
    destination = tmp_path / "out"
    assert main(["data", "convert", "--source", SHAPES, str(destination), "--limit", "9"]) == 0
    assert "9 samples" in capsys.readouterr().out
    before = build("source", "shapes", task="instruct", split="test", size=12)
    after = build("source", "llava_json", path=str(destination / "data.json"))
    assert len(after) == 9
    for index in range(9):
        assert after[index].id == before[index].id
        assert said(after[index]) == said(before[index])
        for one, other in zip(before[index].images, after[index].images, strict=True):
            assert np.array_equal(read_pixels(one), read_pixels(other))
    rows = json.loads((destination / "data.json").read_text())
    assert {"id", "image", "conversations", "tags"} == set(rows[0])
    assert rows[0]["conversations"][0]["value"].startswith("<image>\n")
    with Image.open(destination / rows[0]["image"]) as picture:
        assert picture.format == "PNG"
    assert not list(destination.glob("*.tmp"))


RECIPE = """
name: toy
model:
  encoder: {type: shapes_vit, image_size: 64}
  connector: {type: mlp}
  language_model: {type: shapes_lm}
  template: {type: vicuna_v1}
stages:
  align:
    train: {connector: {lr: 1e-3}}
    data: {source: {type: shapes, task: captions, size: 4}, template: {type: plain}}
    steps: 3
    global_batch_size: 8
    clip_norm: 1.0
  instruct:
    train: {connector: {lr: 1e-3}}
    data: {source: {type: shapes, task: instruct, size: 5}}
    steps: 3
    global_batch_size: 8
    clip_norm: 1.0
    validate: {source: {type: shapes, task: instruct, split: validation, size: 3}, every: 5}
"""


def test_export_of_a_stage(tmp_path, capsys):
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(RECIPE)
    for words, count in (
        (["--stage", "instruct", str(tmp_path / "a")], 5),
        ([str(tmp_path / "b"), "--stage", "align"], 4),
        (["stages.align.data.source.size=2", str(tmp_path / "c")], 2),
        (["--stage", "instruct", "--validation", str(tmp_path / "d")], 3),
    ):
        assert main(["data", "convert", str(recipe), *words]) == 0
        assert f"{count} samples" in capsys.readouterr().out
    assert main(["data", "convert", str(recipe), "--validation", str(tmp_path / "e")]) == 2
    assert "no `validate` block" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        (["convert"], "expected DEST", 2),
        (["convert", "{new}"], "expected PATH, RECIPE, or --source", 2),
        (["convert", "--source", SHAPES, "{full}"], "not empty", 3),
        (["convert", "--source", "shapes", "{new}"], "expected a block", 2),
        (["convert", "--source", "{{type: shaps}}", "{new}"], "did you mean 'shapes'", 2),
        (["convert", "--source", SHAPES, "--limit", "0", "{new}"], "--limit 0", 2),
        (["check"], "expected PATH, RECIPE, or --source", 2),
    ],
)
def test_mistakes(tmp_path, capsys, words, told, code):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    filled = [word if word == SHAPES else word.format(new=tmp_path / "new", full=tmp_path / "full") for word in words]
    assert main(["data", *filled]) == code
    assert told in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_check_names_what_is_wrong(tmp_path, capsys):
    answer = {"from": "gpt", "value": "A cat."}
    Image.new("RGB", (4, 4)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    rows = [
        {"id": "good", "image": "good.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, answer]},
        {"id": "count", "image": "good.png", "conversations": [{"from": "human", "value": "What?"}, answer]},
        {"id": "empty", "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": " "}]},
        {"id": "turns", "conversations": [{"from": "human", "value": "What?"}, {"from": "human", "value": "What?"}, answer]},
        {"id": "role", "conversations": [{"from": "robot", "value": "What?"}, answer]},
        {"id": "file", "image": "bad.png", "conversations": [{"from": "human", "value": "<image>"}, answer]},
        {"id": "gone", "image": "gone.png", "conversations": [{"from": "human", "value": "<image>"}, answer]},
        {"id": "out", "image": "../../etc/passwd", "conversations": [{"from": "human", "value": "<image>"}, answer]},
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    source = f"{{type: llava_json, path: {path}}}"
    assert main(["data", "check", "--source", source, "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 8
    assert {sample["id"]: sample["reason"] for sample in found["bad"]} == {
        "count": "image_count",
        "empty": "empty_answer",
        "turns": "bad_turns",
        "role": "bad_turns",
        "file": "unreadable_image",
        "gone": "missing_image",
        "out": "outside_root",
    }
    assert found["counts"]["bad_turns"] == 2
    assert main(["data", "check", "--source", source, "--limit", "1"]) == 0
    assert main(["data", "check", "--source", source]) == 3
    assert "gone: missing_image" in capsys.readouterr().err
    assert main(["data", "convert", "--source", source, str(tmp_path / "out")]) == 3
    assert len(json.loads((tmp_path / "out" / "data.json").read_text())) == 3


def white(size):
    return np.full((size[1], size[0], 3), 255, np.uint8)


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
def test_any_conversation_comes_back(tmp_path, parts):
    count = sum(isinstance(part, ImageSlot) for part in parts)
    messages = (Message("user", parts), Message("assistant", ("It is <image>.",)))
    images = tuple(ImagePixels(lambda size=(2 + n, 3): white(size), (2 + n, 3)) for n in range(count))
    sample = Sample("s", Conversation(messages, "Be brief."), images)

    class One:
        def __getitem__(self, index):
            return sample

    assert export_samples(One(), 1, tmp_path / "out", lambda done, total: None) == (1, [])
    again = build("source", "llava_json", path=str(tmp_path / "out" / "data.json"))[0]
    shown = [part.index for part in parts if isinstance(part, ImageSlot)]
    expected = said(sample)
    for number, slot in enumerate(shown):  # pictures are numbered in the order in which they are shown
        expected[0] = ("user", expected[0][1].replace(f"\0{slot}\0", f"\1{number}\1"))
    assert said(again) == [(role, text.replace("\1", "\0")) for role, text in expected]
    assert again.conversation.system == "Be brief."
    sizes = [(2 + slot, 3) for slot in shown]
    assert [read_pixels(image).shape[1::-1] for image in again.images] == sizes


def test_ordinary_rows_stay_ordinary():
    sample = Sample("s", Conversation((Message("user", (ImageSlot(0), "\nWhat?")), Message("assistant", ("A.",)))))
    row = row_of(sample, ["images/0.png"])
    assert row == {
        "id": "s",
        "image": "images/0.png",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}],
    }
