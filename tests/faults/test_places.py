"""Where a run may live: a folder with spaces and letters beyond ASCII, under `python -O`, with no GPU and no network."""

import json
import os
import subprocess
import sys
from pathlib import Path

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
FEW = [
    "stages.align.steps=2",
    "stages.instruct.steps=2",
    "evaluate.benchmark.size=12",
    "stages.align.validate=null",
    "stages.instruct.validate=null",
]


def test_a_run_in_an_odd_place_with_assertions_off(tmp_path):
    place = tmp_path / "bilder für Łódź 図"
    place.mkdir()
    (place / "rezept ä.yaml").write_bytes(RECIPE.read_bytes())
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_PROXY": "*"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the second process need not compile everything for -O again
    command = [sys.executable, "-O", "-m", "llava_kit"]
    train = subprocess.run(
        [*command, "train", "rezept ä.yaml", *FEW], cwd=place, env=environment, capture_output=True, text=True, timeout=120
    )
    assert train.returncode == 0, train.stderr
    run = place / "runs" / "quickstart" / "latest"
    assert json.loads((run / "evaluation.json").read_text())["questions"] == 12
    assert (run / "report.html").stat().st_size > 10_000
    ask = [
        *command,
        "chat",
        str(run),
        "--image",
        str(run / "pictures" / "1.png"),
        "--ask",
        "Wo ist es — hier?",
        "--max-new-tokens",
        "4",
    ]
    chat = subprocess.run(ask, cwd=place, env=environment, capture_output=True, text=True, timeout=120)
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout.startswith("> Wo ist es — hier?\n")
