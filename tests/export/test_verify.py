"""The comparison with the exported folder: it fails where it should, and its report can be read by anything."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from recipes_small import assembled, model_block
from safetensors.torch import load_file, save_file

import llava_kit
from llava_kit import CheckpointError
from llava_kit.export.run import export
from llava_kit.export.verify import CASES, CaseResult, Verification, told_verification, verify_again, verify_in_transformers


@pytest.fixture(scope="module")
def assembly(tmp_path_factory):
    return assembled(model_block(tmp_path_factory.mktemp("parts"), anyres=True))


@pytest.fixture
def folder(assembly, tmp_path):
    return export(assembly, tmp_path / "out").folder


def change(folder, name, how):
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = how(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_cases_are_those_that_were_promised():
    assert [len(sizes) for sizes in CASES.values()] == [0, 1, 3, 1, 1]
    ratios = [max(width / height, height / width) for sizes in CASES.values() for width, height in sizes]
    assert max(ratios) > 15


def test_a_changed_newline_shows_where_there_are_pictures_alone(assembly, folder):
    change(folder, "image_newline", lambda tensor: tensor + 0.05)
    found = verify_in_transformers(assembly, folder)
    assert not found.passed
    # Of the very wide picture no line is kept on a tile of four.
    assert [case.logit_difference > 1e-4 for case in found.cases] == [False, True, True, False, True]


def test_a_folder_that_transformers_cannot_load(assembly, folder):
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"transformers .* cannot run the exported folder"):
        verify_in_transformers(assembly, folder)


def test_other_weights_are_named_when_read_back(assembly, tmp_path):
    folder = export(assembly, tmp_path / "original", to="original").folder
    change(folder, "model.mm_projector.2.bias", lambda tensor: tensor + 1)
    with pytest.raises(CheckpointError, match=r"tensor 'connector.linears.1.bias' has other values"):
        verify_again(assembly, folder, llava_kit.load_model)


def test_training_mode_is_given_back(assembly, folder):
    assembly.model.train()
    try:
        verify_in_transformers(assembly, folder, new_tokens=1)
        assert assembly.model.training
    finally:
        assembly.model.eval()


def test_bounds():
    case = CaseResult("one", 3, 0.05, 10.0, False)
    exact = Verification("x", "float32", 1e-4, 8, (case,))
    assert not exact.passed
    assert not replace(exact, bound=0.1).passed  # greedy tokens differ
    assert replace(exact, dtype="bfloat16", bound=0.1).passed
    assert not replace(exact, dtype="bfloat16", bound=0.01).passed


def test_numbers_that_are_none_fail_and_can_be_written(tmp_path):
    case = CaseResult("one", 3, float("nan"), float("inf"), True)
    found = Verification("x", "float32", 1e-4, 8, (case,))
    assert not found.passed
    json.dumps(found.as_json(), allow_nan=False)
    assert "nan" in told_verification(found)[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_shorter_types_stay_within_their_bound(assembly, tmp_path, dtype):
    outcome = export(assembly, tmp_path / "out", dtype=dtype, verify=True)
    found = outcome.verification
    worst = max(case.logit_difference for case in found.cases)
    assert 1e-4 < worst <= found.bound < 0.2 * max(case.largest_logit for case in found.cases)
    assert torch.finfo(getattr(torch, dtype)).eps < found.bound
