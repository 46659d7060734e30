"""A run's folder -> what its page shows, from the files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from ..errors import DataError
from .page import Picture, RunRecord, StageRecord


def read_run(folder: Path, *, seconds: float | None = None) -> RunRecord:
    """`seconds`: how long the run took from start to answers; by default the sum of its stages and its evaluation.

    Raises `DataError` naming the file when the folder is no run's.
    """
    recipe_text = _read(folder / "recipe.yaml")
    recipe = yaml.safe_load(recipe_text)
    summary = json.loads(_read(folder / "summary.json"))
    metrics = [json.loads(line) for line in _read(folder / "metrics.jsonl").splitlines()]
    evaluation = _optional(folder / "evaluation.json")
    stages = [_stage(record, recipe["model"], metrics) for record in summary["stages"]]
    worked = sum(stage.seconds for stage in stages) + (evaluation or {}).get("seconds", 0.0)
    return RunRecord(
        name=recipe["name"],
        description=recipe.get("description") or "",
        folder=str(folder),
        date=datetime.fromtimestamp((folder / "recipe.yaml").stat().st_mtime).strftime("%Y-%m-%d %H:%M"),
        recipe=recipe_text,
        environment=_environment(json.loads(_read(folder / "env.json"))),
        stages=stages,
        evaluation=evaluation,
        pictures=_pictures(folder / "pictures"),
        seconds=worked if seconds is None else seconds,
    )


def _stage(record: Mapping[str, Any], model: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> StageRecord:
    lines = [line for line in metrics if line["stage"] == record["name"]]
    curves = {
        kind: [(line["step"], line["loss"]) for line in lines if line["kind"] == kind] for kind in ("train", "validation")
    }
    return StageRecord(
        name=record["name"],
        steps=record["steps"],
        seconds=record["seconds"],
        samples=record["samples"],
        tokens=record["tokens"],
        loss=curves["train"],
        validation=curves["validation"],
        parameters=_components(record["parameters"], model),
        phases=_phases(record["phases"]),
        notes=record["notes"],
    )


def _components(groups: Sequence[Mapping[str, Any]], model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The optimizers' groups added up to one row a component, with the part that the recipe names."""
    rows: dict[str, dict[str, Any]] = {}
    for group in groups:
        name = group["component"]
        block = model[name]
        part = " + ".join(b["type"] for b in block) if isinstance(block, list) else block["type"]
        row = rows.setdefault(name, {"component": name.replace("_", " "), "part": part, "total": 0, "trained": 0, "rates": {}})
        row["total"] += group["total"]
        row["trained"] += group["trained"]
        if group["trained"]:
            row["rates"][f"{group['optimizer']} {group['lr']:g}"] = None
    return [{**row, "lr": ", ".join(row["rates"])} for row in rows.values()]


def _phases(phases: Mapping[str, float]) -> dict[str, float]:
    names = {"compute": "forward and backward", "data": "waiting for data"}
    return {names.get(name, name): seconds for name, seconds in phases.items() if seconds > 0}


def _environment(env: Mapping[str, Any]) -> dict[str, str]:
    plugins = [f"{plugin['name']} ({plugin['distribution']} {plugin['version']})" for plugin in env["plugins"]]
    return {
        "device": f"{env['device']}, {env['threads']} threads",
        "python": env["python"],
        "packages": ", ".join(f"{name} {version}" for name, version in env["versions"].items()),
        "plugins": ", ".join(plugins),
    }


def _pictures(folder: Path) -> list[Picture]:
    rows = _optional(folder / "pictures.json") or []
    return [
        Picture(
            png=(folder / row["file"]).read_bytes(),
            type=row["type"],
            question=row["question"],
            truth=row["truth"],
            answer=row["answer"],
            blind=row["wrong_picture_answer"],
            right=row["right"],
        )
        for row in rows
    ]


def _optional(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected the folder of a run") from error
