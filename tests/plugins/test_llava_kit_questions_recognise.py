from __future__ import annotations

import json

import publishers
import pytest

from llava_kit.assemble.parts import build_source
from llava_kit.assemble.recognise import HEAD_BYTES, recognise
from llava_kit.registry.manager import default_registry


@pytest.mark.parametrize("name", publishers.ALL)
def test_a_file_is_known_by_its_contents(tmp_path, name):
    """Whatever it is called; every source there is was asked, and no other claims it."""
    path = publishers.ALL[name](tmp_path)
    if path.is_file():
        path = path.rename(tmp_path / "renamed.txt")
    assert recognise(str(path)).type == name


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("name", publishers.ALL)
def test_no_question_source_claims_anothers_file(tmp_path, name, indent):
    path = publishers.ALL[name](tmp_path)
    if path.is_file():
        path.write_text(json.dumps(json.loads(path.read_text()), indent=indent))
    head = path.read_bytes()[:HEAD_BYTES] if path.is_file() else b""
    entries = [entry for entry in default_registry().entries("source") if entry.recognise is not None]
    claims = {entry.name for entry in entries if entry.recognise(str(path), head) is not None}  # type: ignore[misc]
    assert claims == {name}
    assert set(publishers.ALL) < {entry.name for entry in entries}


def test_nothing_else_is_claimed(tmp_path):
    for number, value in enumerate(
        [
            [{"id": "1", "image": "1.jpg", "conversations": [{"from": "human", "value": '"questions" "image_id": 1'}]}],
            {"images": [{"id": 1}], "annotations": [{"image_id": 1, "id": 3, "caption": "A cat."}]},
            {"data": [{"a": 1}]},
            {"questions": []},
            [],
            {},
            [[1]],
            "text",
        ]
    ):
        path = publishers.write(tmp_path / f"{number}.json", value)
        for name in publishers.ALL:
            entry = default_registry().get("source", name)
            assert entry.recognise is not None
            assert entry.recognise(str(path), path.read_bytes()) is None, (value, name)
    assert default_registry().get("source", "ai2d").recognise(str(tmp_path), b"") is None  # type: ignore[misc]


def test_the_first_vqa_is_not_taken_for_okvqa(tmp_path):
    info = {"description": "This is v1.0 of the VQA dataset."}
    path = publishers.write(tmp_path / "q.json", publishers.vqa_questions([(5, 50, "What?")], info=info))
    assert default_registry().get("source", "okvqa").recognise(str(path), path.read_bytes()) is None  # type: ignore[misc]


def test_folders_stand_for_the_file_in_them(tmp_path):
    publishers.scienceqa(tmp_path / "scienceqa")
    assert len(build_source(recognise(str(tmp_path / "scienceqa")))) == 2
    publishers.ai2d(tmp_path / "ai2d")
    assert len(build_source(recognise(str(tmp_path / "ai2d")))) == 3
