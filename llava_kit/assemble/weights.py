"""Assembly <-> folder: one safetensors file per component, and a `model.json` that says how to build the parts again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import CheckpointError, LlavaKitError
from ..model.vlm import VisionLanguageModel
from ..recipe.load import recipe_to_yaml
from ..recipe.schema import COMPONENTS, Model, Part, Recipe
from ..registry.manager import plugins_in_use
from .files import verify_folder, write_folder
from .parts import Assembly, assemble

FORMAT = 1
MODEL_FILE = "model.json"


def save_model(
    assembly: Assembly,
    folder: Path,
    components: Collection[str],
    *,
    recipe: Recipe | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write the named components (those that no longer are what their plugin would build) and how to build the rest.

    The folder appears whole or not at all. The connector is always written: it has no other home.
    """
    if assembly.recipe_model is None:
        raise LlavaKitError(
            "this model was assembled from ready parts, so nothing says how to build it again; assemble it from a recipe's "
            "`model` block (a dict will do) to be able to save it"
        )
    names = [name for name in COMPONENTS if name in {*components, "connector"}]
    description = {
        "format": FORMAT,
        "model": assembly.recipe_model.model_dump(mode="json"),
        "seed": assembly.seed,
        "components": names,
        "plugins": plugins_in_use(_parts(assembly.recipe_model)),
        **(info or {}),
    }

    def write(path: Path) -> None:
        for name in names:
            save_file(component_tensors(assembly.model, name), path / f"{name}.safetensors", metadata={"format": "pt"})
        (path / MODEL_FILE).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if recipe is not None:
            (path / "recipe.yaml").write_text(recipe_to_yaml(recipe), encoding="utf-8")

    write_folder(folder, write)


def load_model(source: str | Path, *, device: str | torch.device | None = None, dtype: str | None = None) -> Assembly:
    """The model in a folder: a model folder, a stage's folder, or a run's folder (its last finished stage).

    Components whose weights lie in the folder are built without any and filled, so that one copy is in memory; `dtype`
    (default: as the recipe says) is that of encoder and language model.

    Raises `CheckpointError` naming the file or tensor when something is missing, damaged or of another shape.
    """
    folder = find_model(Path(source))
    verify_folder(folder)
    description = _read_description(folder)
    block = Model.model_validate(description["model"])
    _compare_plugins(folder, description["plugins"], plugins_in_use(_parts(block)))
    stored = description["components"]
    weights = {name: name not in stored for name in ("encoder", "language_model")}
    assembly = assemble(block, weights=weights, seed=description["seed"])
    for name in stored:
        load_component(assembly.model, name, folder / f"{name}.safetensors")
    if device is not None:
        assembly.model.to(device)
    assembly.model.eval()
    return assembly


def component_tensors(model: VisionLanguageModel, component: str) -> dict[str, Tensor]:
    """The component's state by name, on the CPU; tensors that are one and the same are written once."""
    tensors = dict(getattr(model, component).state_dict())
    if component == "connector" and model.newline is not None:
        tensors["newline"] = model.newline.detach()
    seen: set[tuple[int, int]] = set()
    result = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.numel())
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        result[name] = tensor.detach().cpu().contiguous()
    return result


def misfits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What keeps `found` from filling `expected`: tensors that are missing, foreign, or of another shape, in order of name."""
    wrong = [f"missing tensor {name!r}" for name in expected.keys() - found.keys()]
    wrong += [f"unexpected tensor {name!r}" for name in found.keys() - expected.keys()]
    wrong += [
        f"tensor {name!r}: found shape {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected.keys() & found.keys()
        if found[name].shape != expected[name].shape
    ]
    return sorted(wrong)


def load_component(model: VisionLanguageModel, component: str, file: Path) -> None:
    """Fill a component from its file. Every tensor must be there, in its shape, and no other."""
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read as safetensors ({error})") from error
    expected = component_tensors(model, component)
    wrong = misfits(found, expected)
    if wrong:
        raise CheckpointError(f"{file} does not fit the {component} of this model:\n  " + "\n  ".join(wrong))
    with torch.no_grad():
        if component == "connector" and model.newline is not None:
            model.newline.copy_(found.pop("newline"))
        # strict=False: the second name of a tied tensor is rightly absent; everything else was checked above.
        getattr(model, component).load_state_dict(found, strict=False)


def holds_own_model(folder: Path) -> bool:
    """Whether a model of ours lies in the folder."""
    return any(True for pattern in (MODEL_FILE, f"model/{MODEL_FILE}", f"*/model/{MODEL_FILE}") for _ in folder.glob(pattern))


def find_model(source: Path) -> Path:
    """The model folder that `source` means."""
    if not source.exists():
        raise CheckpointError(f"{source}: there is no such folder; expected a run, a stage of a run, or a model folder")
    if (source / MODEL_FILE).is_file():
        return source
    if (source / "model" / MODEL_FILE).is_file():
        return source / "model"
    found = sorted(source.glob(f"*/model/{MODEL_FILE}"), key=lambda path: path.stat().st_mtime)
    if found:
        return found[-1].parent
    raise CheckpointError(
        f"{source}: no finished model in it (looked for {MODEL_FILE} here, in model/ and in */model/); a run has one when its "
        "first stage has ended"
    )


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / MODEL_FILE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if description.get("format") != FORMAT:
        raise CheckpointError(f"{path}: found format {description.get('format')!r}, expected {FORMAT}; update llava_kit")
    return description


def _parts(block: Model) -> list[tuple[str, Part]]:
    encoders = [block.encoder] if isinstance(block.encoder, Part) else list(block.encoder)
    parts = [("encoder", part) for part in encoders]
    parts += [("connector", block.connector), ("language_model", block.language_model), ("template", block.template)]
    return parts


def _compare_plugins(folder: Path, saved: list[dict[str, str]], now: list[dict[str, str]]) -> None:
    """Warn about every plugin that is not the one the model was made with."""
    current = {plugin["name"]: plugin for plugin in now}
    for plugin in saved:
        here = current.get(plugin["name"])
        if here is not None and (here["distribution"], here["version"]) != (plugin["distribution"], plugin["version"]):
            warnings.warn(
                f"{folder}: plugin {plugin['name']!r} was {plugin['distribution']} {plugin['version']} when this model was "
                f"saved and is {here['distribution']} {here['version']} now",
                stacklevel=3,
            )
