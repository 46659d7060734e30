"""The tutorial's plugin, installed as a stranger would install it, found, checked and built. Takes a few seconds: pip runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llava_kit.testing import check_connector

SOURCE = Path(__file__).parent / "llava-kit-shout"
PIP = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--target"]

BUILD = """
import llava_kit, torch
from llava_kit import Grid
torch.manual_seed(0)
connector = llava_kit.build("connector", "shout", volume=3, vision_width=8, text_width=6, grid=Grid(2, 2))
print(tuple(connector(torch.randn(2, 4, 8)).shape), connector.volume.item())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that pip has installed the plugin into."""
    folder = tmp_path_factory.mktemp("shout")
    source = shutil.copytree(SOURCE, folder / "source")  # building leaves files behind
    target = folder / "target"
    subprocess.run([sys.executable, "-m", "pip", *PIP, str(target), str(source)], check=True, timeout=120)
    return target


def python(installed, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


def test_it_is_found_with_its_version(installed):
    listed = json.loads(python(installed, "-m", "llava_kit", "plugins", "list", "--json", "shout").stdout)
    assert listed["entries"] == [
        {
            "kind": "connector",
            "name": "shout",
            "summary": "Two linear layers, then everything louder.",
            "plugin": "shout",
            "distribution": "llava-kit-shout",
            "version": "0.1.0",
        }
    ]
    assert listed["broken"] == []


def test_its_options_are_as_strict_as_ours(installed, toy_recipe):
    toy = os.environ["PYTHONPATH"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), toy])}
    command = [sys.executable, "-m", "llava_kit", "recipe", "check", "toy.yaml"]
    for change, code, told in [
        ("model.connector={type: shout, volume: 3}", 0, "well"),
        ("model.connector={type: shout, volum: 3}", 2, "model.connector.volum: unknown key; did you mean 'volume'?"),
        ("model.connector={type: shot}", 2, "did you mean 'shout'?"),
    ]:
        done = subprocess.run([*command, change], capture_output=True, text=True, env=environment)
        assert done.returncode == code
        assert told in done.stdout + done.stderr


def test_it_is_built(installed):
    done = python(installed, "-c", BUILD)
    assert done.stdout == "(2, 4, 6) 3.0\n", done.stderr


def test_it_keeps_the_contract(monkeypatch):
    monkeypatch.syspath_prepend(str(SOURCE))
    import llava_kit_shout

    from llava_kit import Grid

    grid = Grid(3, 3)
    options = llava_kit_shout.ShoutOptions()
    connector = llava_kit_shout.build_shout(options, vision_width=8, text_width=6, grid=grid)
    check_connector(connector, vision_width=8, text_width=6, grid=grid)


def test_it_is_as_short_as_the_readme_says():
    lines = (SOURCE / "llava_kit_shout" / "__init__.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 20
