"""What a stage is: what it starts from, what makes it the same stage again, and the record that says it is finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..assemble.files import MANIFEST, verify_folder, write_json
from ..assemble.parts import Assembly, assemble
from ..assemble.weights import MODEL_FILE, find_model, holds_own_model, load_component
from ..errors import CheckpointError
from ..exchange.start import fill, stored_components
from ..exchange.start import fingerprint as fingerprint_of
from ..recipe.checks import SCRATCH
from ..recipe.schema import COMPONENTS, Recipe, Stage
from ..recipe.write import as_values
from .checkpoint import Differs, differences

RECORD = "stage.json"
# Keys of a stage that change what is seen or kept of a run, or how fast it goes, and not one number of what is learnt.
HARMLESS = (
    ("log_every",),
    ("checkpoint",),
    ("validate",),
    ("data", "samples"),
    ("data", "workers"),
    ("data", "quarantine"),
    ("parallel", "recompute"),
)


@dataclass(frozen=True)
class Start:
    """Where a stage's weights come from: an earlier stage, a model folder, or neither (what the plugins build)."""

    stage: str | None = None
    folder: Path | None = None


def starting_point(recipe: Recipe, name: str) -> Start:
    """What `start_from` means: the stage before unless it says otherwise, and nothing for the first one."""
    said = recipe.stages[name].start_from
    if said is None:
        names = list(recipe.stages)
        before = names[: names.index(name)]
        return Start(stage=before[-1]) if before else Start()
    if said == SCRATCH:
        return Start()
    return Start(stage=said) if said in recipe.stages else Start(folder=Path(said))


def identity(recipe: Recipe, name: str, fingerprint: Callable[[str], str]) -> dict[str, Any]:
    """All that decides what the stage learns, as JSON. `fingerprint(stage)` tells the data of a stage.

    Two runs with the same identity take the same steps; what it leaves out (`HARMLESS`, the output, evaluation) may change.
    """
    start = starting_point(recipe, name)
    if start.stage is not None:
        begins: Any = identity(recipe, start.stage, fingerprint)
    elif start.folder is not None and _is_foreign(start.folder):
        begins = {"folder": fingerprint_of(start.folder)}
    elif start.folder is not None:
        begins = {"folder": _digest((find_model(start.folder) / MANIFEST).read_text(encoding="utf-8"))}
    else:
        begins = SCRATCH
    return {
        "seed": recipe.seed,
        "model": as_values(recipe.model),
        "stage": essentials(recipe.stages[name]),
        "data": fingerprint(name),
        "start_from": begins,
    }


def essentials(stage: Stage) -> dict[str, Any]:
    """The stage's block without the harmless keys."""
    values = as_values(stage)
    for *path, key in HARMLESS:
        block = values
        for part in path:
            block = block.get(part, {})
        block.pop(key, None)
    return values


def changed_components(recipe: Recipe, name: str) -> set[str]:
    """The components that, after the stage, are no longer what their plugins build."""
    start = starting_point(recipe, name)
    changed = set(recipe.stages[name].train.components())
    if start.stage is not None:
        changed |= changed_components(recipe, start.stage)
    elif start.folder is not None:
        changed |= set(_components_in(start.folder))
    return changed


def make_assembly(recipe: Recipe, model_folder: Path | None) -> Assembly:
    """The recipe's model, with the weights of a model folder where there is one, ours or another program's.

    Raises `CheckpointError` naming the file or the tensor that is missing, damaged, or of another shape.
    """
    if model_folder is None:
        return assemble(recipe)
    if _is_foreign(model_folder):
        found = stored_components(model_folder)
        assembly = assemble(recipe, weights={name: name not in found for name in ("encoder", "language_model")})
        fill(assembly, found, model_folder)
        return assembly
    folder = find_model(model_folder)
    verify_folder(folder)
    stored = _stored(folder)
    # What the folder holds need not be read from anywhere else first.
    assembly = assemble(recipe, weights={name: name not in stored for name in ("encoder", "language_model")})
    for name in stored:
        load_component(assembly.model, name, folder / f"{name}.safetensors")
    return assembly


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a finished stage in its folder; None when it has not finished."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder / RECORD}: cannot be read ({error}); delete the file to have the stage's end made again"
        ) from error
    return record if (folder / "model" / MODEL_FILE).is_file() else None


def check_record(folder: Path, record: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` unless the finished stage is the one that is asked for."""
    found = differences(record["identity"], now)
    if found:
        raise Differs(
            f"{folder}: this stage was finished by a recipe that differs:\n  "
            + "\n  ".join(found)
            + "\nput it back as it was, "
            "or start a new run with --resume never"
        )


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Say that the stage is finished; the last thing that is written of it."""
    write_json(folder / RECORD, record)


def _is_foreign(folder: Path) -> bool:
    """Another program's checkpoint. A folder that is not there is told of as one of ours would be."""
    return folder.is_file() or (folder.is_dir() and not holds_own_model(folder))


def _components_in(folder: Path) -> list[str]:
    if _is_foreign(folder):
        found = stored_components(folder)
        return [name for name in COMPONENTS if name in found]
    return _stored(find_model(folder))


def _stored(folder: Path) -> list[str]:
    description = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
    return [name for name in COMPONENTS if name in description["components"]]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
