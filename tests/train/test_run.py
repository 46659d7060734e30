"""A whole run of real parts, as small as can be: what it writes, what it takes up again, what it does not do twice."""

from __future__ import annotations

import copy
import io
import json
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from toy import curve

from llava_kit.assemble.files import verify_folder
from llava_kit.assemble.weights import load_model
from llava_kit.errors import CheckpointError, RecipeError, SampleError, TrainingError
from llava_kit.recipe.load import load_recipe
from llava_kit.recipe.schema import Recipe
from llava_kit.train import loop, run
from llava_kit.train.folder import locked
from llava_kit.train.metrics import METRICS, read_metrics
from llava_kit.train.run import train
from llava_kit_shapes.source import ShapesSource

SOURCE = {"type": "shapes", "task": "captions", "size": 24}
BOTH = {"lr": 2e-3}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "threads": 1,
    "model": {
        "encoder": {"type": "shapes_vit", "image_size": 32, "patch_size": 16, "width": 16, "depth": 1, "heads": 2},
        "connector": {"type": "mlp", "depth": 2},
        "language_model": {"type": "shapes_lm", "width": 16, "depth": 1, "heads": 2},
        "template": {"type": "vicuna_v1"},
        "tiling": {"mode": "resize"},
    },
    "stages": {
        "align": {
            "train": {"encoder": BOTH, "connector": BOTH, "language_model": BOTH},
            "data": {"source": SOURCE, "template": {"type": "plain"}, "max_length": 128},
            "steps": 5,
            "global_batch_size": 4,
            "optimizer": {"type": "muon"},
            "clip_norm": 1.0,
            "log_every": 1,
            "checkpoint": {"every": 2},
            "validate": {"source": {**SOURCE, "split": "validation"}, "every": 4, "samples": 6, "generate": 1},
        },
        "instruct": {
            "train": {"connector": BOTH, "language_model": BOTH},
            "data": {"source": {**SOURCE, "task": "conversation"}, "max_length": 256, "pack": True},
            "epochs": 1,
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "clip_norm": None,
            "log_every": 1,
        },
    },
}


def make(**changes: Any) -> Recipe:
    """The recipe with values at dotted paths (two underscores for a dot) changed."""
    values = copy.deepcopy(RECIPE)
    for path, value in changes.items():
        *blocks, key = path.split("__")
        block = values
        for name in blocks:
            block = block[name]
        block[key] = value
    return Recipe.model_validate(values)


class Said:
    """A console that remembers."""

    def __init__(self):
        self.file = io.StringIO()
        self.console = Console(file=self.file, force_terminal=False)

    @property
    def text(self) -> str:
        return self.file.getvalue()


def go(tmp_path, recipe: Recipe | None = None, **keys: Any):
    said = Said()
    return train(recipe or make(), output=tmp_path, console=said.console, device="cpu", **keys), said.text


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return go(tmp_path_factory.mktemp("runs"))


def test_a_run_leaves_what_the_house_promises(finished):
    result, said = finished
    folder = result.folder
    assert result.complete
    assert result.trained == ["align", "instruct"]
    assert folder.parent.name == "tiny"
    assert (folder.parent / "latest").resolve() == folder.resolve()
    assert load_recipe(folder / "recipe.yaml").stages.keys() == {"align", "instruct"}
    for stage in ("align", "instruct"):
        verify_folder(folder / stage / "model")
    assert json.loads((folder / "env.json").read_text())["versions"]["torch"] == torch.__version__.split("+")[0]
    assert list((folder / "tensorboard").iterdir())
    summary = json.loads((folder / "summary.json").read_text())
    align, instruct = summary["stages"]
    assert (align["steps"], align["samples"], align["bad"]) == (5, 20, {})
    assert (instruct["steps"], instruct["samples"]) == (3, 24)
    assert instruct["phases"].keys() == {"data", "compute", "optimizer", "validation", "checkpoint"}
    rows = {(row["component"], row["part"]): row for row in instruct["parameters"]}
    assert rows["encoder", "frozen"]["trained"] == 0
    assert rows["connector", "weights"]["lr"] == 2e-3
    assert "language_model (weights)" in said
    assert "encoder (frozen)" in said


def test_each_stage_begins_where_the_one_before_ended(finished):
    folder = finished[0].folder
    before, after = (load_file(folder / stage / "model" / "encoder.safetensors") for stage in ("align", "instruct"))
    assert all(torch.equal(before[name], after[name]) for name in before)  # frozen in the second stage, changed in the first
    before, after = (load_file(folder / stage / "model" / "connector.safetensors") for stage in ("align", "instruct"))
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_validation_asks_and_the_model_loads(finished):
    folder = finished[0].folder
    looks = [record for record in read_metrics(folder / METRICS) if record["kind"] == "validation"]
    assert [(look["stage"], look["step"]) for look in looks] == [("align", 4), ("align", 5)]
    assert looks[0]["answers"][0].keys() == {"id", "question", "expected", "answer"}
    assert load_model(folder).model is not None


def test_a_finished_run_is_not_trained_again(finished):
    first, _ = finished
    again, said = go(first.folder.parents[1])
    assert again.folder == first.folder
    assert again.trained == []
    assert again.complete
    assert "--resume never" in said
    assert again.stages == first.stages


def test_harmless_changes_are_the_same_run(finished):
    first, _ = finished
    changed = make(stages__align__log_every=7, stages__align__checkpoint={"every": 50}, threads=1, description="other words")
    assert go(first.folder.parents[1], changed)[0].trained == []


def test_interrupted_anywhere_it_comes_out_the_same_to_the_bit(finished, tmp_path, monkeypatch):
    """The first attempt dies in each stage in turn, the second one inside the saving of a model."""
    expected = read_metrics(finished[0].folder / METRICS)

    class Killed(BaseException):
        pass

    def saving(*arguments, **keys):
        raise Killed

    def dying(stage, step):
        plain = loop.Trainer._apply

        def apply(self, *arguments):
            if (self.stage, self.counters.step) == (stage, step):
                raise Killed
            return plain(self, *arguments)

        return apply

    for stage, step in (("align", 3), ("instruct", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(loop.Trainer, "_apply", dying(stage, step))
            with pytest.raises(Killed):
                go(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(run, "save_model", saving)
        with pytest.raises(Killed):
            go(tmp_path)
    result, _ = go(tmp_path)
    assert len(list((tmp_path / "tiny").iterdir())) == 2  # the run and `latest`
    assert result.complete
    found = read_metrics(result.folder / METRICS)
    assert [(r["stage"], r["step"], r["kind"], r["loss"]) for r in found] == [
        (r["stage"], r["step"], r["kind"], r["loss"]) for r in expected
    ]
    for name in ("connector", "language_model", "encoder"):
        ours = load_file(result.folder / "instruct" / "model" / f"{name}.safetensors")
        theirs = load_file(finished[0].folder / "instruct" / "model" / f"{name}.safetensors")
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_workers_change_nothing(finished, tmp_path):
    result, _ = go(tmp_path, make(stages__align__data__workers=2), stage="align")
    expected = [r for r in read_metrics(finished[0].folder / METRICS) if r["stage"] == "align"]
    assert curve(read_metrics(result.folder / METRICS)) == curve(expected)


def test_one_stage_alone_and_then_the_other(finished, tmp_path):
    first, _ = go(tmp_path, stage="align")
    assert first.trained == ["align"]
    assert not first.complete
    second, _ = go(tmp_path, stage="instruct")
    assert second.folder == first.folder
    assert second.complete
    assert curve(read_metrics(second.folder / METRICS)) == curve(read_metrics(finished[0].folder / METRICS))


def test_a_stage_without_the_one_before_says_which_to_train(tmp_path):
    with pytest.raises(CheckpointError, match=r"'instruct' starts from stage 'align', which has not finished.*--stage align"):
        go(tmp_path, stage="instruct")


def test_an_unknown_stage_is_told_with_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match=r"'instrct' is not in the recipe; did you mean 'instruct'\?"):
        go(tmp_path, stage="instrct")
    assert not (tmp_path / "tiny").exists()


def test_a_changed_recipe_is_a_new_run_by_itself_and_refused_by_path(tmp_path):
    first, _ = go(tmp_path, stage="align")
    changed = make(stages__align__train={"connector": {"lr": 5e-4}})
    with pytest.raises(CheckpointError) as told:
        go(tmp_path, changed, stage="align", resume=str(first.folder))
    assert "stage.train.connector.lr: 0.002 when saved, 0.0005 now" in str(told.value)
    second, said = go(tmp_path, changed, stage="align")
    assert second.folder != first.folder
    assert "stages.align.train.connector.lr: 0.002 when saved, 0.0005 now" in said


def test_changed_data_are_refused(tmp_path, monkeypatch):
    first, _ = go(tmp_path, stage="align")
    monkeypatch.setattr(ShapesSource, "fingerprint", lambda self: "other data")
    with pytest.raises(CheckpointError, match=r'data: ".* when saved, "other data" now'):
        go(tmp_path, stage="align")
    assert go(tmp_path, stage="align", resume="never")[0].folder != first.folder


def test_a_model_folder_can_be_the_start(finished, tmp_path):
    model = finished[0].folder / "align" / "model"
    recipe = make(stages__instruct__start_from=str(model))
    result, _ = go(tmp_path, recipe, stage="instruct")
    assert sorted(path.name for path in (result.folder / "instruct" / "model").glob("*.safetensors")) == [
        "connector.safetensors",
        "encoder.safetensors",
        "language_model.safetensors",
    ]
    expected = [r for r in read_metrics(finished[0].folder / METRICS) if r["stage"] == "instruct"]
    assert curve(read_metrics(result.folder / METRICS)) == curve(expected)


def test_resume_wants_a_run(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder; expected auto, never, or the folder of a run"):
        go(tmp_path, resume=str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="no run's folder"):
        go(tmp_path, resume=str(tmp_path))


def test_two_processes_do_not_train_in_one_folder(finished):
    folder = finished[0].folder
    with locked(folder), pytest.raises(TrainingError, match="another process is training in this folder"):
        go(folder.parents[1])


def test_an_output_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "tiny").write_text("in the way")
    with pytest.raises(TrainingError, match="could not be written"):
        go(tmp_path)


def test_bad_samples_are_set_aside_counted_and_told(finished, tmp_path, monkeypatch):
    plain = ShapesSource.__getitem__

    def spoiled(self, index):
        if index in (3, 8) and self.options.split == "train":
            raise SampleError("missing_image", "its picture is gone", sample_id=f"sample {index}")
        return plain(self, index)

    monkeypatch.setattr(ShapesSource, "__getitem__", spoiled)
    result, said = go(tmp_path, make(stages__align__steps=12), stage="align")
    record = result.stages[0]
    assert record["bad"] == {"missing_image": 4}  # two epochs
    assert (record["samples"], record["seen"]) == (44, 48)
    assert "4 samples could not be used: 4 x missing_image" in said
    lines = (result.folder / "align" / "quarantine.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == {"sample 3", "sample 8"}
    with pytest.raises(TrainingError, match="more than the budget"):
        go(tmp_path, make(stages__align__data__quarantine={"budget": 0.01, "free": 0}), stage="align", resume="never")
