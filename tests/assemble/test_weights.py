"""A model to a folder and back: the same logits, and every way in which a folder can be wrong is told."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import llava_kit
from llava_kit.assemble.files import write_folder
from llava_kit.assemble.weights import find_model, save_model
from llava_kit.errors import CheckpointError, LlavaKitError
from llava_kit.recipe.schema import COMPONENTS


@pytest.fixture
def saved(toy, tmp_path):
    assembly = llava_kit.assemble(toy, seed=3)
    save_model(assembly, tmp_path / "run" / "instruct" / "model", COMPONENTS)
    return assembly, tmp_path / "run"


def _rewrite(folder, change):
    """The same folder with `change` applied to it, and a manifest that agrees: damage that checksums cannot see."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    other = folder.parent / "changed"

    def write(path):
        for name, data in files.items():
            (path / name).write_bytes(data)
        change(path)

    write_folder(other, write)
    return other


def test_comes_back_the_same(saved):
    before, run = saved
    for source in (run, run / "instruct", run / "instruct" / "model"):
        after = llava_kit.load_model(source)
        for name, tensor in before.model.state_dict().items():
            assert torch.equal(after.model.state_dict()[name], tensor), name
    assert not after.model.training


def test_only_named_components_are_written(toy, tmp_path):
    save_model(llava_kit.assemble(toy, seed=3), tmp_path / "model", [])
    assert {path.name for path in tmp_path.joinpath("model").glob("*.safetensors")} == {"connector.safetensors"}


def test_the_plugins_are_stored_and_compared(saved):
    _, run = saved
    description = json.loads((run / "instruct" / "model" / "model.json").read_text())
    assert {plugin["distribution"] for plugin in description["plugins"]} == {"llava-kit"}

    def older(path):
        for plugin in description["plugins"]:
            plugin["version"] = "0.0.1"
        (path / "model.json").write_text(json.dumps(description))

    changed = _rewrite(run / "instruct" / "model", older)
    with pytest.warns(UserWarning, match=r"0\.0\.1"):
        llava_kit.load_model(changed)


def test_a_flipped_bit_is_found(saved):
    _, run = saved
    file = run / "instruct" / "model" / "connector.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"connector\.safetensors"):
        llava_kit.load_model(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "stranger": torch.ones(2)}, "unexpected tensor 'stranger'"),
        (lambda t: {name: tensor for name, tensor in t.items() if name != "newline"}, "missing tensor 'newline'"),
        (lambda t: {**t, "newline": torch.ones(3)}, r"'newline': found shape \(3,\), expected \(16,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(saved, change, message):
    _, run = saved

    def spoil(path):
        file = path / "connector.safetensors"
        save_file(change(load_file(file)), file)

    with pytest.raises(CheckpointError, match=message):
        llava_kit.load_model(_rewrite(run / "instruct" / "model", spoil))


def test_a_truncated_file_is_named(saved):
    _, run = saved
    changed = _rewrite(
        run / "instruct" / "model", lambda path: (path / "encoder.safetensors").write_bytes(b"\x08" + b"\0" * 20)
    )
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors"):
        llava_kit.load_model(changed)


def test_no_model_there(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        find_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no finished model"):
        find_model(tmp_path)


def test_an_assembly_without_recipe_says_why_it_cannot_be_saved(tmp_path):
    assembly = llava_kit.assemble(
        encoder=llava_kit.build("encoder", "shapes_vit"),
        connector={"type": "linear"},
        language_model=llava_kit.build("language_model", "shapes_lm"),
        template="vicuna_v1",
    )
    with pytest.raises(LlavaKitError, match="ready parts"):
        save_model(assembly, tmp_path / "model", COMPONENTS)
