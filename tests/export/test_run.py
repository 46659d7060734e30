"""Exports appear whole or not at all, leave alone what is not theirs, and say everything that is wrong at once."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from recipes_small import assembled, model_block
from safetensors.torch import load_file

import llava_kit
from llava_kit import CheckpointError, LlavaKitError
from llava_kit.assemble.files import verify_folder
from llava_kit.assemble.weights import save_model
from llava_kit.export import run, shards, verify
from llava_kit.export.run import REPORT, export
from llava_kit.recipe.schema import Recipe

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def assembly(tmp_path_factory):
    return assembled(model_block(tmp_path_factory.mktemp("parts")))


def test_on_the_face(assembly, tmp_path):
    outcome = llava_kit.export(assembly, tmp_path / "out")
    assert outcome.to == "transformers"
    assert outcome.num_bytes == sum(tensor.nbytes for tensor in load_file(outcome.folder / "model.safetensors").values())
    verify_folder(outcome.folder)


def test_shards_and_type(assembly, tmp_path):
    seen = []
    outcome = export(
        assembly, tmp_path / "out", dtype="bfloat16", max_shard_size="40KB", progress=lambda *now: seen.append(now), verify=True
    )
    index = json.loads((outcome.folder / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    assert seen[-1][0] == seen[-1][1] == outcome.num_bytes
    assert all(tensor.dtype == torch.bfloat16 for file in files for tensor in load_file(outcome.folder / file).values())
    assert outcome.verification.dtype == "bfloat16"
    assert outcome.verification.passed
    assert any("float32 were written as bfloat16" in remark for remark in outcome.remarks)


def test_options_are_checked_together_before_anything_is_loaded(tmp_path):
    with pytest.raises(LlavaKitError) as told:
        export(tmp_path / "nothing", tmp_path / "out", to="transformer", dtype="bf16", lora="keep", max_shard_size="big")
    lines = str(told.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["to", "lora", "dtype", "max_shard_size"]
    assert "did you mean 'transformers'?" in lines[0]


def test_foreign_folders_are_left_alone(assembly, tmp_path):
    target = tmp_path / "mine"
    target.mkdir()
    (target / "thesis.txt").write_text("three years")
    with pytest.raises(LlavaKitError, match="is not empty, and no earlier export"):
        export(assembly, target)
    assert (target / "thesis.txt").read_text() == "three years"
    export(assembly, target, force=True)
    assert not (target / "thesis.txt").exists()
    export(assembly, target)  # an earlier export is replaced


def test_empty_folder_is_as_good_as_none(assembly, tmp_path):
    (tmp_path / "empty").mkdir()
    assert export(assembly, tmp_path / "empty").num_bytes > 0


def test_not_even_force_replaces_the_source_or_where_one_stands(assembly, tmp_path, monkeypatch):
    folder = export(assembly, tmp_path / "deep" / "out").folder
    for target in (folder, tmp_path / "deep", tmp_path):
        with pytest.raises(LlavaKitError, match="holds the source, the working folder or your home"):
            export(folder, target, force=True)
    monkeypatch.chdir(folder)
    with pytest.raises(LlavaKitError, match="holds the source, the working folder or your home"):
        export(assembly, tmp_path / "deep", force=True)


def test_a_file_is_no_folder(assembly, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LlavaKitError, match="is a file"):
        export(assembly, tmp_path / "file", force=True)


@pytest.mark.parametrize("place", ["weights", "words"])
def test_a_full_disk_leaves_nothing_behind(assembly, tmp_path, monkeypatch, place):
    target = tmp_path / "out"
    before = export(assembly, target).folder / REPORT
    old = before.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((shards, "save_file", full) if place == "weights" else (run, "write_card", full)))
    with pytest.raises(CheckpointError, match="No space left on device"):
        export(assembly, target, dtype="bfloat16")
    assert before.read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_too_little_space_is_told_before_writing(assembly, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(CheckpointError, match=r"needs .* kB for the weights, and there are 1.0 kB free"):
        export(assembly, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_nothing_behind(assembly, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "write_shards", stop)
    with pytest.raises(KeyboardInterrupt):
        export(assembly, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_result_that_differs_is_an_error_with_the_report_beside_it(assembly, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "FLOAT32_BOUND", -1.0)
    with pytest.raises(CheckpointError, match="is not the model it was made of") as told:
        export(assembly, tmp_path / "out", verify=True)
    assert told.value.exit_code == 4
    report = json.loads((tmp_path / "out" / REPORT).read_text())
    assert report["verification"]["passed"] is False


def test_report_says_what_was_done(assembly, tmp_path):
    outcome = export(assembly, tmp_path / "out", verify=True)
    report = json.loads((outcome.folder / REPORT).read_text())
    assert report["to"] == "transformers"
    assert report["dtype"] == "float32"
    assert report["verification"]["passed"] is True
    assert len(report["verification"]["cases"]) == 5
    assert {row[0] for row in report["engines"]} >= {"llava-kit", "vLLM 0.33", "SGLang", "llama.cpp, Ollama"}


def test_no_paths_of_this_machine_in_the_folder(assembly, tmp_path):
    for to in ("transformers", "original", "package"):
        folder = export(assembly, tmp_path / to, to=to, verify=True).folder
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix != ".safetensors":
                assert str(tmp_path.parent) not in path.read_text(encoding="utf-8"), path


def test_a_run_of_ours(tmp_path, toy):
    """Recipe and scores come along; parts that transformers does not have make it a package, with the reasons."""
    run = tmp_path / "run"
    model = assembled(toy)
    recipe = Recipe.model_validate({"name": "toy", "model": toy, "stages": {"align": _STAGE}})
    save_model(model, run / "align" / "model", ("encoder", "language_model"), recipe=recipe, info={"stage": "align"})
    scores = {"questions": 12, "accuracy": {"all": 0.75}, "majority": {"all": 0.5}, "questions_by_type": {"all": 12}}
    (run / "evaluation.json").write_text(json.dumps(scores))
    outcome = export(run, tmp_path / "out", verify=True)
    assert outcome.to == "package"
    assert [line.partition(":")[0] for line in outcome.obstacles] == ["encoder", "language model"]
    card = (outcome.folder / "README.md").read_text()
    assert "75.0%" in card
    assert "align: shapes" in card
    assert "name: toy" in card
    assert llava_kit.load_model(outcome.folder).model.state_dict().keys() == model.model.state_dict().keys()


_STAGE = {
    "train": {"connector": {"lr": 1e-3}},
    "data": {"source": {"type": "shapes"}},
    "steps": 1,
    "global_batch_size": 1,
    "clip_norm": 1.0,
}


def test_source_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        export(tmp_path / "nothing", tmp_path / "out")
    assert not list(Path(tmp_path).iterdir())
