"""What no single key can tell: rules between the keys of a recipe, and warnings about this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel

from llava_kit.errors import nearest
from llava_kit.registry.registry import Registry, words

from ..image.options import max_tiles_meant
from .parts import parse_part, parts_of
from .prepare import DataRecipe
from .schema import Recipe
from .tree import Node, Path, Problem, dotted, find, place_of

SCRATCH = "scratch"
"""What `start_from` says for a stage that begins with fresh weights; no stage may be called so."""

PATH_KEYS = ("path", "file", "folder", "root")
"""An option of a data source with such a name, or ending in `_` and such a name, is taken for a path."""

OTHER_MODES = ("square", "pad", "resize")
"""The modes of tiling that choose among no canvases; `pad` is the one that is meant when none is given."""


def check_rules(root: Node) -> list[Problem]:
    """The rules between keys. They look at the tree, so a mistake elsewhere in a block does not hide what they have to say.

    A key that is not what its type wants is no concern of a rule: the schema tells about it.
    """
    found: list[tuple[Path, str]] = [
        (("model", "tiling", *path), message) for path, message in _tiling_rules(find(root, ("model", "tiling")))
    ]
    encoders = find(root, ("model", "encoder"))
    if encoders is not None and encoders.value == []:
        found.append((("model", "encoder"), "name at least one encoder"))
    stages = find(root, ("stages",))
    names = list(stages.value) if stages is not None and isinstance(stages.value, dict) else []
    for number, name in enumerate(names):
        node = find(root, ("stages", name))
        if name == SCRATCH:
            found.append((("stages", name), f"no stage may be called {SCRATCH!r}: `start_from` uses the word"))
        if node is not None and isinstance(node.value, dict):
            rules = [*_length_rules(node), *_step_rules(node), *_shape_rules(node), *_start_rules(node, names, number)]
            rules += [(("data", "tiling", *path), message) for path, message in _tiling_rules(find(node, ("data", "tiling")))]
            found += [(("stages", name, *path), message) for path, message in rules]
    return [Problem(place_of(root, path), path, message) for path, message in found]


def _said(node: Node | None, *path: str) -> Any:
    """The value at `path`, or None where it is not given."""
    below = None if node is None else find(node, path)
    return None if below is None else below.value


def _number(node: Node, *path: str) -> float | None:
    """The number at `path`, also when it was written as text; None where there is none."""
    value = _said(node, *path)
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _tiling_rules(tiling: Node | None) -> Iterator[tuple[Path, str]]:
    mode, pinpoints = _said(tiling, "mode"), _said(tiling, "pinpoints")
    if mode == "anyres" and not pinpoints:
        yield ("pinpoints",), "anyres needs the canvases to choose from, such as [[336, 672], [672, 336], [672, 672]]"
    if pinpoints and (mode is None or mode in OTHER_MODES):
        yield (
            ("pinpoints",),
            f"only anyres chooses among canvases; take them out, or set mode to anyres (it is {mode or 'pad'})",
        )
    merge = _said(tiling, "merge") or "spatial_unpad"
    if _said(tiling, "max_tiles") is not None and ((mode or "pad") in OTHER_MODES or merge in ("flat", "spatial")):
        yield ("max_tiles",), max_tiles_meant(mode or "pad", merge)


def _length_rules(stage: Node) -> Iterator[tuple[Path, str]]:
    epochs, steps = _said(stage, "epochs"), _said(stage, "steps")
    if epochs is None and steps is None:
        yield (), "say how long: `epochs` or `steps`"
    if epochs is not None and steps is not None:
        yield ("steps",), "give `epochs` or `steps`, not both; set the one that was inherited to null"
    if _said(stage, "schedule", "warmup") is not None and _said(stage, "schedule", "warmup_steps") is not None:
        yield ("schedule", "warmup_steps"), "give `warmup` (a share) or `warmup_steps`, not both; set the inherited one to null"
    warmup, length = _number(stage, "schedule", "warmup_steps"), _number(stage, "steps")
    if warmup is not None and length is not None and warmup > length:
        yield ("schedule", "warmup_steps"), f"the warmup is longer than the stage, which has {length:g} steps; found {warmup:g}"


def _step_rules(stage: Node) -> Iterator[tuple[Path, str]]:
    train = _said(stage, "train")
    if isinstance(train, dict) and all(node.value is None for node in train.values()):
        yield ("train",), "nothing trains; name encoder, connector or language_model, each with its lr"
    batch, micro = _number(stage, "global_batch_size"), _number(stage, "micro_batch_size")
    if batch and micro and micro > 0 and _said(stage, "data", "pack") is not True and batch % micro:
        yield ("micro_batch_size",), f"global_batch_size ({batch:g}) must be a multiple of it, found {micro:g}"
    shard = _number(stage, "parallel", "shard")
    if shard is not None and shard > 1:
        yield ("parallel", "shard"), f"this version trains on one device; take it out or write 1, found {shard:g}"


def _shape_rules(stage: Node) -> Iterator[tuple[Path, str]]:
    fixed = _said(stage, "parallel", "fixed_shapes") is True
    if fixed and _said(stage, "data", "pack") is not True:
        yield (
            ("parallel", "fixed_shapes"),
            "rows are of one length only when packing: it needs `data.pack: true` and a `micro_batch_size` (rows of a batch)",
        )
    elif fixed and _said(stage, "micro_batch_size") is None:
        yield ("parallel", "fixed_shapes"), "it needs a `micro_batch_size`: how many rows of `data.max_length` each batch has"
    if _said(stage, "parallel", "compile") == "step" and not fixed:
        yield (
            ("parallel", "compile"),
            "step compiles anew for each new shape; it needs `parallel.fixed_shapes: true` (or compile: blocks)",
        )


def _start_rules(stage: Node, names: list[str], number: int) -> Iterator[tuple[Path, str]]:
    """`start_from` names an earlier stage, a folder, or `scratch`. A folder that is not a stage is written with a slash."""
    start, earlier = _said(stage, "start_from"), names[:number]
    if not isinstance(start, str) or start == SCRATCH:
        return
    if start in names and start not in earlier:
        listed = ", ".join(earlier) or "there is none; leave it out"
        yield ("start_from",), f"the stage {start!r} does not come before this one (earlier stages: {listed})"
    elif start not in names and "/" not in start and "\\" not in start and not FilePath(start).exists():
        best = nearest(start, [*earlier, SCRATCH])
        hint = f"did you mean {best!r}?" if best else f"known: {', '.join([*earlier, SCRATCH])}"
        yield ("start_from",), f"there is no earlier stage {start!r}; {hint} (a model folder is written ./{start})"


def find_warnings(recipe: Recipe | DataRecipe, registry: Registry) -> list[str]:
    """What may be wrong on this machine though the recipe is right: data that is not here, parts that cannot run here.

    What one of its own steps makes need not be here.
    """
    found: list[str] = []
    made = [FilePath(to) for step in recipe.prepare.values() if (to := getattr(getattr(step, step.action), "to", None))]
    for path, kind, part in parts_of(recipe):
        entry, options = parse_part(part, kind, registry)
        reason = entry.why_unavailable()
        if reason is not None:
            found.append(f"{dotted(path)}: {words(kind)} {part.type!r} cannot run here: {reason}")
        if kind in ("source", "benchmark"):
            found += [
                f"{dotted((*path, key))}: {value} is not here"
                for key, value in _paths(options)
                if not FilePath(value).exists() and not any(FilePath(value).is_relative_to(folder) for folder in made)
            ]
    stages = recipe.stages if isinstance(recipe, Recipe) else {}
    for name, stage in stages.items():
        start = stage.start_from
        if start is not None and start != SCRATCH and start not in stages and not FilePath(start).exists():
            found.append(f"stages.{name}.start_from: {start} is not here")
    return found


def _paths(options: BaseModel) -> Iterator[tuple[str, Any]]:
    for key in type(options).model_fields:
        value = getattr(options, key)
        if isinstance(value, FilePath) or (isinstance(value, str) and value and key.split("_")[-1] in PATH_KEYS):
            yield key, value
