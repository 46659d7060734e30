"""A run's folder, `<output>/<name>/<time>/`: a new one, or the one to go on with."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ..assemble.files import sweep, write_json, write_text
from ..errors import CheckpointError, TrainingError
from ..recipe.schema import Recipe
from ..recipe.write import as_values, recipe_to_yaml
from .checkpoint import differences
from .stage import essentials

RUN_FILE = "run.json"
FORMAT = 1


def open_run(recipe: Recipe, resume: str, output: str | Path | None, say: Callable[[str], object]) -> Path:
    """The folder to train in.

    `resume`: `auto` takes the newest run of this very recipe, finished or not, and else makes a new one; `never` makes a new
    one; anything else is the path of a run, whose stages must then fit the recipe.
    """
    if resume not in ("auto", "never"):
        return _named_run(Path(resume))
    parent = Path(recipe.output if output is None else output) / recipe.name
    if resume == "auto":
        runs = _runs(parent)
        for folder in runs:
            if not differences(_read(folder)["identity"], _identity(recipe)):
                return folder
        if runs:
            changes = differences(_read(runs[0])["identity"], _identity(recipe))
            say(f"the recipe has changed since {runs[0]}, so this is a new run:\n  " + "\n  ".join(changes))
    return _new_run(parent, recipe)


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """The resolved recipe, as it is now."""
    with writing(folder):
        write_text(folder / "recipe.yaml", recipe_to_yaml(recipe))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process trains in a folder. The lock is the system's: it ends with the process, however that ends."""
    with writing(folder):
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(
                f"{folder}: another process is training in this folder; wait for it, or start a new run with --resume never"
            ) from error
        yield
    finally:
        os.close(handle)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into a `TrainingError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise TrainingError(f"{path}: could not be written ({error}); free some space, or choose another `output`") from error


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What makes two recipes the same run, before any data are looked at. The order of stages counts."""
    stages = [{"name": name, **essentials(stage)} for name, stage in recipe.stages.items()]
    return {
        "seed": recipe.seed,
        "model": as_values(recipe.model),
        "order": list(recipe.stages),
        "stages": {stage.pop("name"): stage for stage in stages},
    }


def _new_run(parent: Path, recipe: Recipe) -> Path:
    started = datetime.now().astimezone()
    stamp = started.strftime("%Y-%m-%d_%H-%M-%S")
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = parent / (stamp if number == 1 else f"{stamp}_{number}")
            try:
                folder.mkdir()
                break
            except FileExistsError:
                number += 1
        write_json(folder / RUN_FILE, {"format": FORMAT, "started": started.isoformat(), "identity": _identity(recipe)})
    _link_latest(folder)
    return folder


def _named_run(path: Path) -> Path:
    # The link `latest` is followed once: what it points to may change while the run goes on.
    folder = path.resolve() if path.is_symlink() else path
    if not folder.is_dir():
        raise CheckpointError(f"--resume {path}: there is no such folder; expected auto, never, or the folder of a run")
    if not (folder / RUN_FILE).is_file():
        raise CheckpointError(f"--resume {path}: this is no run's folder (it has no {RUN_FILE}); give <output>/<name>/<time>")
    _read(folder)
    return folder


def _runs(parent: Path) -> list[Path]:
    """The runs in a folder, the newest first."""
    if not parent.is_dir():
        return []
    sweep(parent)
    started = {}
    for path in parent.iterdir():
        if not path.is_symlink() and (path / RUN_FILE).is_file():
            with suppress(CheckpointError):  # a run that cannot be read cannot be gone on with
                started[path] = _read(path)["started"]
    return sorted(started, key=lambda path: (started[path], path.name), reverse=True)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / RUN_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise CheckpointError(f"{path}: found format {content['format']!r}, expected {FORMAT}; update llava_kit")
        return {"started": str(content["started"]), "identity": dict(content["identity"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error!r}); go on with another run, or use --resume never") from error


def _link_latest(folder: Path) -> None:
    """`latest` beside the runs, for people; where links cannot be made it is missing, and nothing here needs it."""
    link = folder.parent / "latest"
    temporary = folder.parent / "latest.tmp"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name)
        os.replace(temporary, link)
    except OSError:
        temporary.unlink(missing_ok=True)
