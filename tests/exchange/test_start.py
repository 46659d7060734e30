"""A stage may start from other programs' checkpoints: all of one, or a connector alone."""

from __future__ import annotations

import shutil

import pytest
import torch
from folders import make_model, text_config, write_folder
from originals import original_tensors

import llava_kit
from llava_kit.errors import CheckpointError
from llava_kit.exchange.start import fill, fingerprint, stored_components
from llava_kit.recipe.schema import Recipe
from llava_kit.train.stage import changed_components, identity, make_assembly


def recipe(folder, *, width: int = 48, start=None) -> Recipe:
    """The parts of `make_model()` by their configs alone; nothing else could fill them."""
    block = llava_kit.load_model(folder).recipe_model.model_dump(mode="json")
    block["language_model"]["config"]["hidden_size"] = width
    block["template"] = {"type": "v1"}
    stage = {
        "train": {"connector": {"lr": 1e-3}},
        "data": {"source": {"type": "shapes"}},
        "steps": 2,
        "global_batch_size": 2,
        "clip_norm": None,
        "start_from": str(start or folder),
    }
    return Recipe.model_validate({"name": "tuned", "model": block, "stages": {"instruct": stage}})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model = make_model()
    return model, write_folder(tmp_path_factory.mktemp("start") / "llava", model)


def test_a_transformers_folder_gives_everything(checkpoint):
    _, folder = checkpoint
    tuned = recipe(folder)
    started = make_assembly(tuned, folder).model.state_dict()
    loaded = llava_kit.load_model(folder).model.state_dict()
    assert started.keys() == loaded.keys()
    assert all(torch.equal(started[name], loaded[name]) for name in loaded)
    # All that the plugins would not build again must be written when the stage ends.
    assert changed_components(tuned, "instruct") == {"encoder", "connector", "language_model"}


def test_a_connector_alone(checkpoint, tmp_path):
    model, folder = checkpoint
    projector = {name: tensor + 1 for name, tensor in original_tensors(model).items() if "mm_projector" in name}
    torch.save(projector, tmp_path / "mm_projector.bin")
    found = stored_components(tmp_path)
    assert list(found) == ["connector"]
    assert changed_components(recipe(folder, start=tmp_path), "instruct") == {"connector"}
    assert torch.equal(found["connector"].read("1.bias"), projector["model.mm_projector.2.bias"])
    assert list(stored_components(tmp_path / "mm_projector.bin")) == ["connector"]
    assembly = llava_kit.load_model(folder)
    before = {name: tensor.clone() for name, tensor in assembly.model.connector.state_dict().items()}
    fill(assembly, found, tmp_path)
    after = assembly.model.connector.state_dict()
    assert all(torch.equal(after[name], before[name] + 1) for name in before)


def test_resuming_notices_other_weights(checkpoint, tmp_path):
    _, folder = checkpoint
    copy = shutil.copytree(folder, tmp_path / "copy")
    begins = identity(recipe(folder), "instruct", str)["start_from"]
    assert identity(recipe(folder, start=copy), "instruct", str)["start_from"] == begins
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    assert fingerprint(copy) != fingerprint(folder)
    assert identity(recipe(folder, start=copy), "instruct", str)["start_from"] != begins


def test_what_does_not_fit_is_named_with_both_shapes(checkpoint, tmp_path):
    _, folder = checkpoint
    wider = write_folder(tmp_path / "wider", make_model(text=text_config(hidden_size=64)))
    with pytest.raises(CheckpointError, match=r"does not fit the recipe's model: .*found shape \(64,\), expected \(48,\)"):
        make_assembly(recipe(folder), wider)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="found no connector of LLaVA in it"):
        make_assembly(recipe(folder), tmp_path / "empty")
