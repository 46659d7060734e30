"""`llava-kit env`: versions, devices and plugins, to be pasted into a bug report. Tells no path and no name of a machine."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..registry.registry import Registry

PACKAGES = (
    *("torch", "torchvision", "transformers", "timm", "open_clip_torch", "safetensors", "tokenizers", "huggingface_hub"),
    *("triton", "liger_kernel", "pluggy", "pyyaml", "pydantic", "pillow", "numpy", "rich", "jinja2", "tensorboard"),
)

VARIABLES = ("LLAVA_KIT_", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTORCH_", "TORCH", "TRITON_", "HF_HUB_OFFLINE")
"""Environment variables that change how a run behaves, by how they begin."""

BY_LINE = ("kernels",)
"""Facts whose items are sentences."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    import json

    facts = describe()
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, list):
            value = f"\n{'':15}".join(value) if name in BY_LINE else ", ".join(map(str, value))
        print(f"{name + ':':14} {value}")
    return 0


def describe() -> dict[str, Any]:
    """The facts by name: texts, lists of texts, or a dict of texts."""
    from llava_kit import __version__

    return {
        "llava_kit": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "packages": _versions(),
        **_devices(),
        **_plugins(),
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
        "encoding": f"stdout {sys.stdout.encoding}, files {sys.getfilesystemencoding()}",
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _devices() -> dict[str, Any]:
    """What torch can use. A torch that does not import is a finding, not a crash: this is what a bug report is for."""
    try:
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        names = [f"{torch.cuda.get_device_name(n)}, {torch.cuda.mem_get_info(n)[1] / 2**30:.0f} GiB" for n in range(count)]
        return {
            "devices": names or ["CPU only"],
            "cuda": torch.version.cuda or "not built in",
            "threads": torch.get_num_threads(),
        }
    except Exception as error:
        return {"devices": [f"torch cannot be used: {type(error).__name__}: {error}"]}


def _plugins() -> dict[str, Any]:
    from ..errors import PluginError
    from ..registry.manager import default_registry

    try:
        registry = default_registry()
    except PluginError as error:
        return {"plugins": [f"cannot be loaded: {error}"]}
    faults = [*map(str, registry.broken), *map(str, registry.conflicts)]
    return {
        "plugins": [str(plugin) for plugin in registry.plugins],
        "broken": faults or ["none"],
        "kernels": list(_kernels(registry)) or ["none but the reference"],
    }


def _kernels(registry: Registry) -> Iterator[str]:
    """What was registered beside the references: whether it runs here, whether `auto` takes it, and what it tells itself."""
    from ..recipe.parts import CHOICES

    for entry in (entry for kind in CHOICES for entry in registry.entries(kind)):
        reason = entry.why_unavailable()
        state = f"not here: {reason}" if reason is not None else f"runs here; {entry.why_faster() or 'not measured here'}"
        yield f"{entry.kind} {entry.name}: {state}"
        yield from (f"  {line}" for line in entry.description())
