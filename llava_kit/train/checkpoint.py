"""A stage's checkpoints: what trains, the optimizer's state and a few integers, from which the run goes on bit for bit.

Tensors are safetensors and the rest is JSON, so loading one can run no code. Each is written whole or not at all and carries
checksums (`assemble.files`); a damaged one is named and passed over for the one before it. No random state is stored: the loop
seeds every step from (seed, stage, step), so the step's number is all there is to know.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..assemble.files import sweep, verify_folder, write_folder
from ..assemble.weights import misfits
from ..errors import CheckpointError, TrainingError
from ..recipe.schema import Checkpointing

FORMAT = 1
PARAMETERS = "parameters.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
# A difference longer than this (a whole block, a source's fingerprint) is cut: its path already says where it is.
TOLD_LETTERS = 120
_STEP = re.compile(r"step_(\d+)")


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint, read and verified. `state` is the JSON part."""

    path: Path
    step: int
    parameters: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints in `folder`, one folder `step_N` each, with the links `latest` and `best` for people.

    `identity`: what the run is (recipe, data), compared when a checkpoint is taken up again. `plugins`: as `plugins_in_use`
    gives them.
    """

    def __init__(
        self,
        folder: Path,
        settings: Checkpointing,
        identity: Mapping[str, Any],
        plugins: Sequence[Mapping[str, str]] = (),
    ):
        self.folder = folder
        self._settings = settings
        self._identity = identity
        self._plugins = list(plugins)
        if folder.is_dir():
            sweep(folder)

    def save(
        self,
        step: int,
        parameters: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        state: Mapping[str, Any],
        best_step: int | None = None,
    ) -> Path:
        """Write `step_N` and remove what need not be kept. Raises `TrainingError` when it cannot be written."""
        path = self.folder / f"step_{step}"
        record = {"format": FORMAT, "step": step, **state, "identity": self._identity, "plugins": self._plugins}

        def write(temporary: Path) -> None:
            save_file(_plain(parameters), temporary / PARAMETERS)
            save_file(_plain(optimizer), temporary / OPTIMIZER)
            text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
            (temporary / STATE).write_text(text + "\n", encoding="utf-8")

        try:
            write_folder(path, write)
        except CheckpointError as error:
            raise TrainingError(
                f"the checkpoint of step {step} is lost: {error}. The same command goes on from {self._last()}"
            ) from error
        self._link("latest", path)
        if best_step is not None and self._settings.best:
            self._link("best", self.folder / f"step_{best_step}")
        self._prune(step, best_step)
        return path

    def newest(self, say: Callable[[str], object] = warnings.warn) -> Snapshot | None:
        """The newest whole checkpoint; damaged ones on the way to it are named through `say`. None when there is none at all.

        Raises `CheckpointError` when all are damaged, or when the newest whole one belongs to another recipe or other data.
        """
        damaged = []
        for step in reversed(self.steps()):
            path = self.folder / f"step_{step}"
            try:
                snapshot = self.load(path)
            except Damaged as error:
                damaged.append(str(error))
                say(f"{error}; taking the checkpoint before it")
                continue
            return snapshot
        if damaged:
            raise CheckpointError(
                f"{self.folder}: all {len(damaged)} checkpoints are damaged:\n  " + "\n  ".join(damaged) + "\nstart again with "
                "--resume never"
            )
        return None

    def load(self, path: Path) -> Snapshot:
        """Read one checkpoint. Raises `Damaged`, or `CheckpointError` listing how its recipe or data differ from these."""
        try:
            verify_folder(path)
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
            if state.get("format") != FORMAT:
                raise CheckpointError(f"{path / STATE}: found format {state.get('format')!r}, expected {FORMAT}")
            self._compare(path, state)
            return Snapshot(path, state["step"], load_file(path / PARAMETERS), load_file(path / OPTIMIZER), state)
        except Differs:
            raise
        except (CheckpointError, OSError, ValueError, KeyError, SafetensorError) as error:
            raise Damaged(str(error)) from error

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, damaged ones included."""
        if not self.folder.is_dir():
            return []
        found = [_STEP.fullmatch(path.name) for path in self.folder.iterdir() if not path.is_symlink()]
        return sorted(int(match[1]) for match in found if match)

    def _compare(self, path: Path, state: Mapping[str, Any]) -> None:
        found = differences(state["identity"], self._identity)
        if found:
            raise Differs(
                f"{path} was made by a run that differs from this one:\n  "
                + "\n  ".join(found)
                + "\nput them back as they were, "
                "or start a new run with --resume never"
            )
        here = {plugin["name"]: plugin for plugin in self._plugins}
        for plugin in state["plugins"]:
            now = here.get(plugin["name"])
            if now is not None and now != plugin:
                warnings.warn(
                    f"{path}: plugin {plugin['name']!r} was {plugin.get('distribution')} {plugin.get('version')} when it was "
                    f"written and is {now.get('distribution')} {now.get('version')} now; the curve may differ",
                    stacklevel=3,
                )

    def _last(self) -> str:
        steps = self.steps()
        return f"step {steps[-1]}" if steps else "the beginning"

    def _prune(self, current: int, best_step: int | None) -> None:
        """Remove all but the last `keep` up to `current` and the best one.

        Later ones stem from a run that was taken up again before them; each is replaced when its step comes.
        """
        past = [step for step in self.steps() if step <= current]
        kept = {*past[-self._settings.keep :], *([best_step] if self._settings.best else [])}
        for step in past:
            if step not in kept:
                shutil.rmtree(self.folder / f"step_{step}", ignore_errors=True)

    def _link(self, name: str, target: Path) -> None:
        """For people and their scripts; nothing here reads it, so a file system without links loses nothing."""
        link = self.folder / name
        temporary = link.with_name(name + ".tmp")
        try:
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target.name)
            os.replace(temporary, link)
        except OSError:
            temporary.unlink(missing_ok=True)


class Damaged(CheckpointError):
    """A checkpoint that is not as it was written; the one before it may do."""


class Differs(CheckpointError):
    """A whole checkpoint of another recipe or of other data; no older one would do either."""


def differences(saved: Any, now: Any, path: str = "") -> list[str]:
    """Where two JSON values differ, one line each: `a.b.c: 32 when saved, 64 now`."""
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        lines = []
        for key in [*saved, *(key for key in now if key not in saved)]:
            lines += differences(saved.get(key), now.get(key), f"{path}.{key}" if path else str(key))
        return lines
    # Compared as JSON, in which a tuple and a list are one thing.
    if json.dumps(saved, sort_keys=True) == json.dumps(now, sort_keys=True):
        return []
    return [f"{path}: {_told(saved)} when saved, {_told(now)} now"]


def restore_parameters(parameters: Mapping[str, Tensor], snapshot: Snapshot) -> None:
    """Fill `parameters` in place. Raises `CheckpointError` naming the tensors that are missing, foreign or of another shape."""
    wrong = misfits(snapshot.parameters, parameters)
    if wrong:
        raise CheckpointError(f"{snapshot.path / PARAMETERS} does not fit this model:\n  " + "\n  ".join(wrong))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(snapshot.parameters[name])


def _told(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= TOLD_LETTERS else text[: TOLD_LETTERS - 3] + "..."


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, each with memory of its own, as safetensors wants them."""
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        owns_all = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        result[name] = tensor if owns_all else tensor.clone()
    return result
