"""What every test starts from: one thread (the suite runs in parallel), a fixed seed, and no plugin but the installed ones."""

import gc
import itertools
import os
import sys

import pytest

# Tests and the programs that they start are compiled to bytecode once, not in every worker and process anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_NUMBERS = itertools.count()  # no two tests' plugins share a module name: Python keeps a module that it has imported


def pytest_collection_finish(session):
    """Libraries stay for the whole session: the garbage collector need not walk through them again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config):
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _steady(monkeypatch):
    monkeypatch.delenv("LLAVA_KIT_PLUGINS", raising=False)
    monkeypatch.delenv("LLAVA_KIT_NO_PLUGINS", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def make_plugin(tmp_path, monkeypatch):
    """`make_plugin(name, source)` installs a plugin of one module, for this process and for those that it starts.

    The distribution is called `llava-kit-<name>` unless `distribution` says otherwise.
    """
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def make(name, source, *, distribution=None, version="1.0"):
        distribution = distribution or f"llava-kit-{name}"
        module = f"{distribution.replace('-', '_')}_{name}_{next(_NUMBERS)}"
        (folder / f"{module}.py").write_text(source, encoding="utf-8")
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n", encoding="utf-8")
        with (info / "entry_points.txt").open("a", encoding="utf-8") as file:
            file.write(f"[llava_kit]\n{name} = {module}\n")
        return module

    return make


TOY_PLUGIN = """
from typing import Literal

from llava_kit import Options, hookimpl


class Inner(Options):
    depth: int = 1


class EncoderOptions(Options):
    \"\"\"Toy encoder.

    Of which a second paragraph is not its summary.
    \"\"\"

    checkpoint: str
    layer: int = -2
    rate: float = 0.5
    style: Literal["plain", "fancy"] = "plain"
    inner: Inner = Inner()
    size: int | tuple[int, int] = 4


class OtherOptions(Options):
    width: int = 8


class SourceOptions(Options):
    path: str = "."


def build(options, **neighbours):
    return options


@hookimpl
def register_encoders(register):
    register("toy", options=EncoderOptions, build=build)
    register("other", options=OtherOptions, build=build)


@hookimpl
def register_connectors(register):
    register("toy_mlp", options=OtherOptions, build=build, summary="A summary of its own.")


@hookimpl
def register_language_models(register):
    register("toy_lm", options=OtherOptions, build=build)


@hookimpl
def register_templates(register):
    register("toy_turns", build=build)


@hookimpl
def register_splicers(register):
    register("toy_kernel", build=build, unavailable=lambda: "no such device")


@hookimpl
def register_losses(register):
    register("toy_loss", build=build, unavailable=lambda: "no such head", describe=lambda: ["says this"])


@hookimpl
def register_sources(register):
    register("toy_data", options=SourceOptions, build=build)


@hookimpl
def register_commands(register):
    register("toy_verb", build=lambda: (lambda parser: parser.add_argument("word"), lambda arguments: print(arguments.word)))
"""

TOY_RECIPE = """
name: toy
model:
  encoder: {type: toy, checkpoint: a/b}
  connector: {type: toy_mlp}
  language_model: {type: toy_lm}
  template: {type: toy_turns}
stages:
  align:
    train: {connector: {lr: 1e-3}}
    data: {source: {type: toy_data}}
    steps: 10
    global_batch_size: 16
    clip_norm: 1.0
""".lstrip()


@pytest.fixture
def toy_recipe(make_plugin, tmp_path, monkeypatch):
    """A recipe file that is right, `toy.yaml`, in an empty working folder; its parts come from a plugin that builds nothing."""
    make_plugin("toy", TOY_PLUGIN)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "toy.yaml").write_text(TOY_RECIPE, encoding="utf-8")
    return folder / "toy.yaml"


# A toy model block: every part real, none larger than a few thousand numbers.
TOY = {
    "encoder": {"type": "shapes_vit", "image_size": 32, "patch_size": 16, "width": 16, "depth": 1, "heads": 2},
    "connector": {"type": "mlp", "depth": 2},
    "language_model": {"type": "shapes_lm", "width": 16, "depth": 1, "heads": 2},
    "template": {"type": "vicuna_v1"},
    "tiling": {"mode": "anyres", "pinpoints": [[32, 64], [64, 32], [64, 64]], "merge": "spatial_unpad"},
}


@pytest.fixture
def toy() -> dict:
    return {name: dict(block) for name, block in TOY.items()}
