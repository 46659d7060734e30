"""The pieces of the GPU rows that compute something: places, lengths, batches, floors, hours, tables."""

import argparse
import json

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import readme
from benchmarks.gpu import batches, common, head, lengths, models, on_gpu, schedule, training
from llava_kit.core.tiles import Grid


def test_supervised_places_are_as_many_as_told_in_as_many_runs():
    places = head.supervised_places(head.FULL)
    assert len(places) == 2949
    assert places.max() < 16_384
    assert not np.isin(places, np.arange(0, 16_384, 876)).any()  # the first of a sample has nothing before it
    first = np.sort(places[places < 876])
    assert 1 + int((np.diff(first) > 1).sum()) == 20


def test_lengths_are_those_of_the_mixture():
    drawn = lengths.draw_lengths(40_000, seed=0)
    text = np.array([text for _, text in drawn])
    whole = np.array([576 * picture + text for picture, text in drawn])
    assert abs(whole.mean() - 845) < 15
    assert abs(np.median(text) - 239) < 12
    assert whole.max() <= 2048
    assert 0.62 < 576 * np.mean([picture for picture, _ in drawn]) / whole.mean() < 0.66


def test_batches_hold_each_sample_once():
    sizes = [length for _, length in lengths.draw_lengths(200, seed=1)]
    rows = lengths.packed_rows(sizes, 2048, seed=0)
    for split in (rows, lengths.random_batches(200, 16, seed=0), lengths.grouped_batches(sizes, 16, seed=0)):
        flat = [number for batch in split for number in batch]
        assert len(flat) == len(set(flat)) >= 170
    assert all(sum(sizes[number] for number in row) <= 2048 for row in rows)
    spread = [max(sizes[n] for n in batch) / min(sizes[n] for n in batch) for batch in lengths.grouped_batches(sizes, 16, 0)]
    assert np.median(spread) < 1.5


def test_padded_examples_say_what_the_packed_ones_do():
    examples = lengths.draw_examples(6, seed=0, vocab=90, image_size=28, patches=4, scale=16)
    batch = batches.pad_examples(examples, Grid(2, 2), image_token=95)
    assert batch.num_tokens == sum(example.length for example in examples)
    assert batch.num_targets == sum(example.num_targets for example in examples)
    assert int((batch.ids == 95).sum()) == 4 * len(batch.pixels)
    assert batch.mask.sum(dim=1).tolist() == [example.length for example in examples]
    assert torch.equal(batch.labels[batch.labels >= 0], batch.ids[batch.labels >= 0])


def test_flops_of_a_token_are_those_of_7b():
    """PERFORMANCE of LLaVA-1.5-7B: 41.1 GFLOP a token at 876 tokens a sample."""
    assert abs(training.flops_per_token(models.LLAVA_7B, 876) / 41.1e9 - 1) < 0.03


def test_the_schedule_takes_about_22_hours_at_40_percent_of_an_h200():
    assert abs(sum(schedule.schedule_hours(0.4 * 989e12)) - 22) < 1.5


def test_adopted_parameters_are_the_same_tensors():
    ours, theirs = nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 2))
    models.adopt(theirs, {f"0.{name}": parameter for name, parameter in ours.named_parameters()})
    assert theirs[0].weight is ours.weight
    with pytest.raises(AssertionError, match="weight"):
        models.adopt(nn.Linear(2, 2), dict(ours.named_parameters()))


def test_what_liger_changes_is_put_back():
    from transformers.models.llama import modeling_llama

    plain, shared = modeling_llama.apply_rotary_pos_emb, models.LigerGlobals()
    with shared.lent():
        modeling_llama.apply_rotary_pos_emb = other = object()
    assert modeling_llama.apply_rotary_pos_emb is plain
    with shared.lent():
        assert modeling_llama.apply_rotary_pos_emb is other
    assert modeling_llama.apply_rotary_pos_emb is plain


def _row(tmp_path):
    return common.Row("G0", "a row", argparse.Namespace(tiny=True, seconds=100.0, json=tmp_path / "row.json"))


def test_a_part_that_fails_is_kept_and_the_row_goes_on(tmp_path):
    row = _row(tmp_path)
    assert row.part("broken", lambda: 1 / 0) is None
    assert row.part("whole", lambda: 7) == 7
    assert row.finish() == 1
    (error,) = json.loads((tmp_path / "row.json").read_text())["errors"]
    assert error["part"] == "broken"
    assert "ZeroDivisionError" in error["trace"]


def test_a_host_read_is_seen_and_told(tmp_path):
    row, number = _row(tmp_path), torch.ones(1)
    assert common.reads_nothing(row, lambda: number * 2)
    assert not common.reads_nothing(row, lambda: float(number))
    assert not common.reads_nothing(row, lambda: number.nonzero())
    assert "host read" in row.notes[0]


def test_a_trace_that_fails_costs_the_row_nothing_else(tmp_path):
    row = _row(tmp_path)
    common.keep_trace(row, "a trace", lambda: 1 / 0)
    assert row.traces == {}
    assert row.notes == ["trace of a trace: left out (ZeroDivisionError: division by zero)"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_peer_runs_without_autocast_in_the_type_of_the_model(tmp_path, dtype):
    """Its projector is made of our connector's maps, which must be of the type of the features."""
    row = _row(tmp_path)
    row.dtype = dtype
    model = models.make_model(row, models.TINY, plain=True)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    peer = models.make_peer(row, models.TINY, model).eval()
    ids = torch.full((1, models.TINY.num_patches + 2), models.TINY.image_token)
    ids[0, [0, -1]] = 5
    pixels = torch.randn(1, 3, 56, 56, dtype=dtype)
    with torch.inference_mode():
        logits = peer(input_ids=ids, pixel_values=pixels, logits_to_keep=1).logits
    assert logits.dtype == dtype
    assert logits.isfinite().all()


def test_an_error_of_nan_is_infinite():
    assert common.relative_error(torch.tensor([float("nan")]), torch.ones(1)) == float("inf")


RESULT = {
    "device": "A GPU",
    "date": "2026-01-02",
    "tests": {"passed": 5, "failed": 1, "error": 0, "skipped": 0, "finished": False},
    "rows": {
        "G3": {
            "figures": [
                {"name": "ratio", "value": 2.5, "unit": "x", "at_least": 3.0, "at_most": None, "met": False},
                {"name": "context", "value": 1.0, "unit": "ms", "at_least": None, "at_most": None, "met": True},
            ],
            "claims": [{"claim": "it is right", "holds": False}],
            "notes": ["part two: left out; no time"],
        }
    },
}


def test_the_table_tells_misses_broken_claims_and_what_was_left_out():
    table = readme.gpu_table(RESULT)
    assert "| G3 | ratio | 2.5 x | ≥ 3 | missed |" in table
    assert "context" not in table
    assert "- GPU tests: 5 passed, 1 failed, cut off" in table
    assert "- G3: does not hold: it is right" in table
    assert "- G3: part two: left out" in table


def test_the_readme_tells_the_latest_run_of_each_device(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert readme.gpu() == "Not yet measured on a GPU.\n"
    (tmp_path / "packing.json").write_text("{}")
    for date in ("2026-01-02", "2026-03-01"):
        (tmp_path / f"a-gpu-{date}.json").write_text(json.dumps({**RESULT, "date": date}))
    assert "2026-03-01" in readme.gpu()
    assert "2026-01-02" not in readme.gpu()


def test_the_carried_wheels_make_up_for_what_a_gpu_image_lacks():
    """Whatever our requirements require is carried, or among what comes with torch, transformers, timm and pytest."""
    from importlib.metadata import requires, version

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    there = {
        "torch torchvision transformers timm safetensors triton pluggy pyyaml pillow numpy rich jinja2 tensorboard tqdm regex",
        "huggingface-hub tokenizers filelock packaging requests markdown-it-py pygments mdurl markupsafe protobuf grpcio",
        "markdown werkzeug absl-py tensorboard-data-server setuptools click typer fsspec sympy networkx mpmath httpx six",
    }
    known = {canonicalize_name(name) for words in there for name in words.split()}
    carried = {canonicalize_name(name) for name in on_gpu.CARRIED}
    waiting, seen = ["llava-kit"], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name in known:
            continue
        seen.add(name)
        assert name == "llava-kit" or name in carried, f"{name} {version(name)}: neither carried nor on the machine"
        for text in requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))


@pytest.mark.slow
def test_installed_beside_it_runs_with_its_plugins(tmp_path):
    """As on a machine without an index, but for the wheels: entry points are found in a folder on PYTHONPATH."""
    import os
    import subprocess
    import sys

    on_gpu.install(tmp_path / "site", [])
    environment = {**os.environ, "PYTHONPATH": on_gpu.paths_of(tmp_path / "site")}
    code = "from importlib.metadata import distribution as d; import llava_kit_clip; print(d('llava-kit')._path)"
    found = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stdout.startswith(str(tmp_path / "site")), found.stderr
    command = [sys.executable, "-P", "-m", "llava_kit", "plugins", "list"]
    listed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert listed.stdout.count("triton (llava-kit") == 3, listed.stderr


def test_tables_that_were_measured_come_home(tmp_path, monkeypatch):
    from benchmarks.gpu import run

    (tmp_path / "cache" / "kernels").mkdir(parents=True)
    (tmp_path / "cache" / "kernels" / "parts-NVIDIA-X.json").write_text("{}")
    monkeypatch.setenv("LLAVA_KIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setattr(run, "TABLES", tmp_path / "tables")
    assert run.keep_tables() == ["parts-NVIDIA-X.json"]
    assert all((tmp_path / place / "parts-NVIDIA-X.json").exists() for place in ("out", "tables"))
