"""Assembly <-> folder: one safetensors file per component, and a `model.json` that says how to build the parts again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import CheckpointError, LlavaKitError, first_line
from ..model.vlm import VisionLanguageModel
from ..recipe.load import recipe_to_yaml
from ..recipe.schema import COMPONENTS, Model, Part, Recipe
from ..registry.manager import default_registry, plugins_in_use
from .files import verify_folder, write_folder
from .parts import Assembly, assemble, build_encoder, build_part

FORMAT = 1
MODEL_FILE = "model.json"
TOKENIZER = "tokenizer"


def save_model(
    assembly: Assembly,
    folder: Path,
    components: Collection[str],
    *,
    recipe: Recipe | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write the named components (those that no longer are what their plugin would build) and how to build the rest.

    The folder appears whole or not at all. The connector is always written: it has no other home. With the language model goes
    its tokenizer, so that nothing but the folder is needed again.
    """
    if assembly.recipe_model is None:
        raise LlavaKitError(
            "this model was assembled from ready parts, so nothing says how to build it again; assemble it from a recipe's "
            "`model` block (a dict will do) to be able to save it"
        )
    names = [name for name in COMPONENTS if name in {*components, "connector"}]
    for name in names:
        if any(not parameter.is_floating_point() for parameter in getattr(assembly.model, name).parameters()):
            raise LlavaKitError(
                f"the {name.replace('_', ' ')} is quantised, and its weights as they were are gone; load it without `quantise`"
            )
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
        if "language_model" in names and _takes_tokenizer(assembly.recipe_model):
            assembly.tokenizer.save_pretrained(path / TOKENIZER)
        (path / MODEL_FILE).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if recipe is not None:
            (path / "recipe.yaml").write_text(recipe_to_yaml(recipe), encoding="utf-8")

    write_folder(folder, write)


def load_model(source: str | Path, *, device: str | torch.device | None = None, dtype: str | None = None) -> Assembly:
    """The model in a folder: a model folder, a stage's folder, or a run's folder (its last finished stage).

    Components whose weights lie in the folder are made without any and filled tensor by tensor, so that one copy is in memory;
    `dtype` (default: as the recipe says) is that of all components.

    Raises `CheckpointError` naming the file or tensor when something is missing, damaged or of another shape.
    """
    folder = find_model(Path(source))
    verify_folder(folder)
    description = _read_description(folder)
    try:
        block = Model.model_validate(description["model"])
    except ValueError as error:
        raise CheckpointError(
            f"{folder / MODEL_FILE}: its model block was written by another version of llava_kit and is no longer understood "
            f"({first_line(error)}); load it with that version and export it"
        ) from error
    _compare_plugins(folder, description["plugins"], plugins_in_use(_parts(block)))
    if (folder / TOKENIZER).is_dir():
        block = _changed(block, "language_model", {"tokenizer": str(folder / TOKENIZER)})
    if dtype is not None:
        for name in ("encoder", "language_model"):
            block = _changed(block, name, {"dtype": dtype})
    assembly = _build(block, description, folder)
    if dtype is not None:
        for parameter in assembly.model.parameters():  # buffers keep theirs: rotary frequencies are always float32
            parameter.data = parameter.data.to(getattr(torch, dtype))
    assembly.model.to(device)
    assembly.model.eval()
    return assembly


def _build(block: Model, description: Mapping[str, Any], folder: Path) -> Assembly:
    """The model, its stored components filled from the folder, the others from where their plugins have them."""
    with torch.device("meta"):
        assembly = assemble(block, weights=False, seed=description["seed"])
    model = assembly.model
    # Encoder and language model have an option for their type; the connector's is that in which it was saved.
    kept = _stored_type(folder / "connector.safetensors")
    model.connector.to(kept)
    if model.newline is not None:
        model.newline = nn.Parameter(model.newline.to(kept))
    for name in COMPONENTS:
        if name in description["components"]:
            load_component(model, name, folder / f"{name}.safetensors")
            if _is_whole(getattr(model, name)):
                continue
            # Something that no file holds was computed on the meta device: made again, with memory of its own.
            setattr(model, name, _component(block, name, model, weights=False))
            load_component(model, name, folder / f"{name}.safetensors")
        else:
            setattr(model, name, _component(block, name, model, weights=True))
    return assembly


def _component(block: Model, name: str, model: VisionLanguageModel, *, weights: bool) -> Any:
    if name == "encoder":
        return build_encoder(block, weights)
    if name == "language_model":
        return build_part("language_model", block.language_model, weights=weights)
    spec = model.encoder.spec
    return build_part(
        "connector", block.connector, vision_width=spec.width, text_width=model.language_model.width, grid=spec.grid
    )


def _is_whole(part: nn.Module) -> bool:
    return not any(tensor.is_meta for tensor in (*part.parameters(), *part.buffers()))


def _changed(block: Model, component: str, values: Mapping[str, Any]) -> Model:
    """The block with other options of a component, as far as its plugin has such options."""
    found = getattr(block, component)
    changed = []
    for part in found if isinstance(found, tuple) else (found,):
        known = default_registry().get(component, part.type).options
        fitting = {key: value for key, value in values.items() if known is not None and key in known.model_fields}
        changed.append(Part.model_validate({"type": part.type, **part.options, **fitting}))
    return block.model_copy(update={component: tuple(changed) if isinstance(found, tuple) else changed[0]})


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
    """Fill a component from its file, in the types it was made with. Every tensor must be there, in its shape, and no other.

    Tensors are put in the place of those that were there, so the component may have been made on the meta device.
    """
    part = getattr(model, component)
    places = _places(part)
    expected = {names[0]: part.state_dict(keep_vars=True)[names[0]] for names in places}
    if component == "connector" and model.newline is not None:
        expected["newline"] = model.newline
    try:
        with safe_open(file, framework="pt") as handle:
            names = list(handle.keys())
            found = {name: torch.empty(handle.get_slice(name).get_shape(), device="meta") for name in names}
        if wrong := misfits(found, expected):
            raise CheckpointError(f"{file} does not fit the {component} of this model:\n  " + "\n  ".join(wrong))
        for stored, *tied in places:
            tensor = _read(file, stored, expected[stored])
            for name in (stored, *tied):
                _put(part, name, tensor)
        if "newline" in expected:
            model.newline = _read(file, "newline", expected["newline"])
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read as safetensors ({error})") from error


def _stored_type(file: Path) -> torch.dtype:
    """The type of the first tensor in a file; float32 where there is none."""
    try:
        with safe_open(file, framework="pt") as handle:
            return next((handle.get_tensor(name).dtype for name in handle.keys()), torch.float32)  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read as safetensors ({error})") from error


def _places(part: nn.Module) -> list[list[str]]:
    """The names of the component's tensors; those that are one and the same together, the first being the stored one."""
    places: dict[Any, list[str]] = {}
    for name, tensor in part.state_dict(keep_vars=True).items():
        # On the meta device all addresses are 0, and an empty tensor has none.
        key = (tensor.data_ptr(), tensor.numel()) if not tensor.is_meta and tensor.numel() else id(tensor)
        places.setdefault(key, []).append(name)
    return list(places.values())


def _read(file: Path, name: str, like: Tensor) -> Any:
    """A tensor of the file in the type, on the device, and as much a parameter, as `like`.

    A copy: what safetensors gives is the file itself, which may be written over while the model is in use. And the file is
    opened for each tensor, since what was read of it stays in memory as long as it is open.
    """
    with safe_open(file, framework="pt") as handle:
        tensor = handle.get_tensor(name).to("cpu" if like.is_meta else like.device, like.dtype, copy=True)
    return nn.Parameter(tensor, like.requires_grad) if isinstance(like, nn.Parameter) else tensor


def _put(part: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, last = name.rpartition(".")
    owner = part.get_submodule(path)
    (owner._parameters if last in owner._parameters else owner._buffers)[last] = tensor  # type: ignore[index]


def holds_own_model(folder: Path) -> bool:
    """Whether a model of ours lies in the folder."""
    return any(True for pattern in (MODEL_FILE, f"model/{MODEL_FILE}", f"*/model/{MODEL_FILE}") for _ in folder.glob(pattern))


def find_model(source: Path) -> Path:
    """The model folder that `source` means."""
    if not source.exists():
        raise CheckpointError(
            f"{source}: there is no such folder; expected a run, a stage or a model, or a LLaVA checkpoint of another program"
        )
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


def _takes_tokenizer(block: Model | None) -> bool:
    """Whether the language model reads its tokenizer from a place that an option names."""
    assert block is not None
    options = default_registry().get("language_model", block.language_model.type).options
    return options is not None and "tokenizer" in options.model_fields


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
