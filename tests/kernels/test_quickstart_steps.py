"""The quick start with `splicer: triton` (and the Triton loss) follows the reference's loss curve."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from llava_kit.recipe.load import load_recipe
from llava_kit.train.metrics import METRICS, read_metrics
from llava_kit.train.run import train

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
ON_GPU = torch.cuda.is_available()
# The interpreter needs seconds for a step of the recipe's size.
FEW = [
    *(f"{stage}.{change}" for stage in ("align", "instruct") for change in ("steps=3", "global_batch_size=2", "validate=null")),
    "instruct.log_every=1",
]
WHOLE: list[str] = []


def losses(tmp_path: Path, name: str, parts: list[str], stages: list[str]) -> list[float]:
    overrides = [*(f"stages.{change}" for change in stages), "stages.align.log_every=1", *parts]
    recipe = load_recipe(QUICKSTART, overrides)
    device = "cuda" if ON_GPU else "cpu"
    quiet = Console(file=io.StringIO())
    result = train(recipe.model_copy(update={"evaluate": None}), output=tmp_path / name, console=quiet, device=device)
    return [record["loss"] for record in read_metrics(result.folder / METRICS) if record["kind"] == "train"]


def follow(tmp_path: Path, stages: list[str]) -> tuple[list[float], list[float]]:
    ours = losses(tmp_path, "triton", ["model.splicer=triton", "model.loss=triton"], stages)
    return ours, losses(tmp_path, "reference", ["model.splicer=reference", "model.loss=reference"], stages)


@pytest.mark.skipif(ON_GPU, reason="the whole quick start is trained instead")
def test_first_steps_by_the_interpreter(tmp_path):
    ours, reference = follow(tmp_path, FEW)
    assert len(ours) == 6
    assert ours == pytest.approx(reference, rel=1e-4)
    assert ours[0] != ours[2]


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")
def test_whole_on_a_gpu(tmp_path):
    ours, reference = follow(tmp_path, WHOLE)
    # The first steps are the same; later rounding makes two runs of their own, which both learn.
    assert ours[:5] == pytest.approx(reference[:5], rel=1e-3)
    assert max(sum(losses[-5:]) / 5 for losses in (ours, reference)) < 0.2 * ours[0]
