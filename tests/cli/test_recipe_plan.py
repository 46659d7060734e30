"""`llava-kit recipe plan`: the tables, the JSON, and what it says of wrong arguments."""

import json

import pytest

from llava_kit.cli.main import main

RECIPE = """
name: toy
model:
  encoder: {type: shapes_vit, image_size: 32, patch_size: 16, width: 16, depth: 1, heads: 2}
  connector: {type: mlp, depth: 2}
  language_model: {type: shapes_lm, width: 16, depth: 1, heads: 2}
  template: {type: vicuna_v1}
  tiling: {mode: anyres, pinpoints: [[32, 64], [64, 32], [64, 64]]}
stages:
  align:
    train: {connector: {lr: 1.0e-3}}
    data: {source: {type: llava_json, path: nowhere.json}, samples: 40, max_length: 64, tiling: {mode: square}}
    epochs: 1
    global_batch_size: 8
    clip_norm: null
  instruct:
    train: {connector: {lr: 2.0e-5}, language_model: {lr: 2.0e-5}}
    data: {source: {type: llava_json, path: nowhere.json}, max_length: 330}
    epochs: 1
    global_batch_size: 8
    clip_norm: null
    parallel: {recompute: true}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return str(path)


@pytest.fixture
def plan(recipe, capsys):
    def run(*arguments):
        code = main(["recipe", "plan", recipe, *arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_tables(plan, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = plan("--size", "64x64", "--gpus", "2", "--gpu-memory", "16")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "5 of 8, 40 samples (published)" in out
    assert "1 + 2 x 2" in out
    assert "GiB on each of 2 GPUs of 16 GiB: fits" in out
    assert "with what is recomputed" in out
    assert out.count("unknown: the data is not here") == 1
    assert "too long" not in out


def test_a_long_sample_and_a_full_device_stand_out(plan):
    _, out, _ = plan("--size", "64x64", "--text-tokens", "instruct=320", "--gpu-memory", "0.0001")
    assert out.count("(too long)") == 1
    assert out.count("too much") == 2


def test_json_is_what_was_asked(plan):
    code, out, _ = plan(
        *("--json", "--size", "64x32", "--size", "40x40", "--gpus", "4", "--peak-tflops", "312", "--utilisation", "0.4"),
        *("--text-tokens", "20", "--samples", "instruct=80", "--samples", "align=16"),
    )
    values = json.loads(out)
    assert code == 0
    assert values["recipe"] == "toy"
    assert values["total"] == sum(values["parameters"].values())
    assert [picture["size"] for picture in values["stages"]["align"]["pictures"]] == [[64, 32], [40, 40]]
    assert [picture["visual_tokens"] for picture in values["stages"]["align"]["pictures"]] == [4, 4]
    assert [picture["visual_tokens"] for picture in values["stages"]["instruct"]["pictures"]] == [14, 24]
    assert [stage["steps"] for stage in values["stages"].values()] == [2, 10]
    assert [stage["text_tokens"] for stage in values["stages"].values()] == [20, 20]
    align = values["stages"]["align"]
    work = align["tflops_per_sample"]["executed"] * align["samples_seen"]
    assert align["hours"] == pytest.approx(work / (4 * 312 * 0.4) / 3600)


def test_changes_reach_the_plan(plan):
    _, out, _ = plan("stages.align.global_batch_size=4", "--json")
    assert json.loads(out)["stages"]["align"]["steps"] == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "640"], "640x480"),
        (["--size", "0x4"], "640x480"),
        (["--gpus", "0"], "above 0"),
        (["--gpus", "two"], "above 0"),
        (["--gpu-memory", "nan"], "above 0"),
        (["--utilisation", "50"], "between 0 and 1"),
        (["--samples", "align="], "above 0"),
    ],
)
def test_wrong_arguments(plan, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        plan(*arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_wrong_stage(plan):
    code, _, err = plan("--samples", "aling=4")
    assert code == 2
    assert "did you mean 'align'" in err


def test_unknown_checkpoint(capsys):
    code = main(["recipe", "plan", "llava_v1_5_7b", "model.encoder.checkpoint=openai/clip-vit-large-patch14-366"])
    err = capsys.readouterr().err
    assert code == 2
    assert "did you mean 'openai/clip-vit-large-patch14-336'" in err
    assert "Traceback" not in err
