"""What is asked every day must not load what trains: start-up imports no torch, no transformers, no numpy, no triton."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "transformers", "numpy", "triton", "timm", "open_clip", "PIL", "liger_kernel", "safetensors"}
MODEL_LESS = HEAVY | {"pydantic", "yaml", "rich", "importlib.metadata", "json"}

COMMANDS = {
    "import": (["-c", "import llava_kit"], MODEL_LESS),
    "--version": (["-m", "llava_kit", "--version"], MODEL_LESS),
    "--help": (["-m", "llava_kit", "--help"], MODEL_LESS),
    "train --help": (["-m", "llava_kit", "train", "--help"], HEAVY),
    # The last one is imported when pydantic builds a schema: a plugin that makes an options object while it is imported.
    "plugins list": (["-m", "llava_kit", "plugins", "list"], HEAVY | {"rich", "yaml", "importlib.metadata"}),
    "plugins show": (["-m", "llava_kit", "plugins", "show", "shapes"], HEAVY),
    "plugins doctor": (["-m", "llava_kit", "plugins", "doctor"], HEAVY),
    "recipe list": (["-m", "llava_kit", "recipe", "list"], HEAVY),
    "recipe schema": (["-m", "llava_kit", "recipe", "schema"], HEAVY),
    "recipe check": (["-m", "llava_kit", "recipe", "check", "recipes/llava_v1_5_7b.yaml"], HEAVY),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_heavy_is_imported(name, pytestconfig):
    arguments, forbidden = COMMANDS[name]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, cwd=pytestconfig.rootpath
    )
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "llava_kit" in imported
    assert imported & forbidden == set()


def test_every_first_party_plugin_is_well(pytestconfig):
    done = subprocess.run([sys.executable, "-m", "llava_kit", "plugins", "doctor"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].endswith("0 plugins are broken")
