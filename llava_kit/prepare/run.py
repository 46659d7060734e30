"""Runs the steps of a recipe's `prepare` block, in order, each once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from ..assemble.build import build_source
from ..errors import DataError, RecipeError, suggest
from ..recipe.prepare import DataRecipe
from ..recipe.schema import Recipe
from ..recipe.write import as_values
from .actions import ACTIONS, Progress, Say, target_of


class Done(NamedTuple):
    """A step that is done. `made` is False for one that was done before; `told` is what it came to, in a few words."""

    name: str
    action: str
    target: str
    made: bool
    told: str
    seconds: float


def prepare(
    recipe: Recipe | DataRecipe,
    *,
    only: str | None = None,
    say: Say = lambda line: None,
    progress: Progress = lambda what, unit: nullcontext(lambda *counts: None),
) -> list[Done]:
    """Runs the steps, or `only` the one of that name, and gives what each came to.

    Beside what a step makes (`TARGET.prepared.json`) it writes down what it was made of, and by which options: an equal step is
    not done again, one that was stopped is gone on with.

    Raises:
        RecipeError: the recipe has no step of that name.
        DataError: what a step would make is there, but was made otherwise; or the step itself failed.
    """
    if only is not None and only not in recipe.prepare:
        raise RecipeError(f"recipe {recipe.name!r} has no step {only!r}; {suggest(only, recipe.prepare)}")
    done = []
    for name, step in recipe.prepare.items():
        if only in (None, name):
            block = getattr(step, step.action)
            done.append(_step(name, step.action, block, say, progress))
    return done


def _step(name: str, action: str, block: Any, say: Say, progress: Progress) -> Done:
    target = target_of(block)
    identity = {"action": action, "options": as_values(block), "inputs": _inputs(block)}
    marker = Path(f"{target}.prepared.json")
    before = _read(marker)
    if before is not None and os.path.exists(target):
        _refuse_other(name, target, before, identity)
        say(f"{name}: done before ({before['told']})")
        return Done(name, action, target, False, before["told"], 0.0)
    start = time.perf_counter()
    told = ACTIONS[action](block, say, lambda what, unit: progress(f"{name}: {what}", unit))
    seconds = time.perf_counter() - start
    marker.parent.mkdir(parents=True, exist_ok=True)
    temporary = marker.with_suffix(".tmp")
    temporary.write_text(json.dumps({**identity, "told": told, "seconds": round(seconds, 3)}, indent=1), encoding="utf-8")
    os.replace(temporary, marker)
    say(f"{name}: {told}")
    return Done(name, action, target, True, told, seconds)


def _inputs(block: Any) -> list[str]:
    """Fingerprints of what a step reads. What steps before it made is there by now."""
    return [build_source(part).fingerprint() for part in (block.source, *getattr(block, "against", ()))]


def _read(marker: Path) -> dict[str, Any] | None:
    try:
        return json.loads(marker.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise DataError(f"{marker}: cannot be read; remove it to have the step done again") from None


def _refuse_other(name: str, target: str, before: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    then, now = json.loads(json.dumps(before)), json.loads(json.dumps(identity))
    changes = list(_changes(then["options"], now["options"]))
    if then["action"] != now["action"]:
        changes.append(f"it was made by {then['action']}")
    if not changes and then["inputs"] != now["inputs"]:
        changes.append("what it was made of has changed")
    if changes:
        raise DataError(
            f"prepare.{name}: {target} is there, but was made otherwise ({'; '.join(changes)}); remove it to have it made "
            "again, or name another folder"
        )


def _changes(then: Any, now: Any, path: Sequence[str] = ()) -> Any:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in {**then, **now}:
            yield from _changes(then.get(key), now.get(key), (*path, key))
    elif then != now:
        yield f"{'.'.join(path)}: then {json.dumps(then)}, now {json.dumps(now)}"
