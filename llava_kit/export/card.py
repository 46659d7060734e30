"""The model card: what the model is made of, how to use it, what it was trained on, how it scored, where it can be served."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from ..assemble.parts import Assembly
from ..assemble.weights import MODEL_FILE, find_model, holds_own_model
from ..image.options import canvases_of
from ..recipe.schema import COMPONENTS, Part

Row = Sequence[str]


@dataclass(frozen=True)
class Origin:
    """Where a model comes from: its recipe as text, the scores of its run, and in words what it was read from."""

    said: str
    recipe: str | None = None
    scores: Mapping[str, Any] | None = None
    data: tuple[str, ...] = ()


def read_origin(source: Path | None) -> Origin:
    """What lies beside a model of ours: `recipe.yaml` in its folder, `evaluation.json` in its run's. Never an error."""
    if source is None:
        return Origin("a model in memory")
    if not source.is_dir() or not holds_own_model(source):
        return Origin(f"`{source.name}`, a checkpoint of another program")
    folder = find_model(source)
    recipe = _read(folder / "recipe.yaml")
    stage = json.loads(_read(folder / MODEL_FILE) or "{}").get("stage")
    scores = None
    if recipe is not None:
        # The run's scores are those of its last stage; a model folder that was copied out carries them along.
        stages = list((yaml.safe_load(recipe) or {}).get("stages") or {})
        homes = [folder, *([folder.parent.parent] if stages and stage == stages[-1] else [])]
        found = next((text for home in homes if (text := _read(home / "evaluation.json")) is not None), None)
        scores = None if found is None else json.loads(found)
    trained = f"trained with llava_kit {__version__}" + (f", stage {stage}" if stage else "")
    return Origin(trained, recipe, scores, _data_of(recipe))


def write_card(
    assembly: Assembly,
    origin: Origin,
    *,
    name: str,
    library: str,
    usage: str,
    engines: Sequence[Row],
    remarks: Sequence[str],
    checks: Sequence[Row] = (),
) -> str:
    """README.md as the hub reads it. `engines` are rows (program, answer, why), `checks` a table with its head."""
    front = {
        "license": "unknown",
        "library_name": library,
        "pipeline_tag": "image-text-to-text",
        "tags": ["llava", "llava-kit"],
        "base_model": _bases(assembly),
    }
    sections = [
        f"# {name}",
        f"A vision-language model in the manner of LLaVA: pictures and text in, text out. It was {_after(origin.said)}.",
        "## Parts\n\n" + _table([("part", "what it is"), *_parts(assembly)]),
        f"## Use\n\n{usage.strip()}",
        _prompt_section(assembly),
        "## Where it runs\n\n" + _table([("program", "runs it", "why, or how"), *engines]),
        *([_list_section("What to know", remarks)] if remarks else []),
        *(["## Checked\n\n" + _table(checks)] if checks else []),
        _training_section(origin),
        _LICENCE,
    ]
    head = yaml.safe_dump({key: value for key, value in front.items() if value}, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n" + "\n\n".join(sections) + "\n"


_LICENCE = (
    "## Licence\n\nNot stated. The weights contain those of the base models above and follow from the training data; their "
    "licences apply. Whoever publishes this model must find out and write it here and in `license:` at the top of this file."
)


def _after(said: str) -> str:
    return said if said.startswith("trained") else f"converted from {said} by llava_kit {__version__}"


def _parts(assembly: Assembly) -> list[Row]:
    model, spec, options = assembly.model, assembly.model.encoder.spec, assembly.tiler.options
    counts = {name: sum(p.numel() for p in model.component_parameters(name).values()) for name in COMPONENTS}
    block = assembly.recipe_model
    said = {name: _said_part(getattr(block, name)) if block else "" for name in COMPONENTS}
    canvases = len(canvases_of(options.pinpoints, spec.image_size))
    anyres = f", AnyRes with {canvases} canvases" if options.mode == "anyres" else f", mode `{options.mode}`"
    return [
        ("encoder", f"{said['encoder']} ({_millions(counts['encoder'])}), tiles of {spec.image_size} pixels{anyres}"),
        ("connector", f"{said['connector']} ({_millions(counts['connector'])})"),
        ("language model", f"{said['language_model']} ({_millions(counts['language_model'])})"),
        ("visual rows", f"{assembly.side.area} a tile"),
    ]


def _said_part(part: Any) -> str:
    if isinstance(part, tuple):
        return " beside ".join(_said_part(one) for one in part)
    options = part.options
    if "config" in options:
        return f"`{part.type}`, {options['config'].get('model_type')}"
    name = str(options.get("checkpoint") or options.get("model") or options.get("architecture") or "")
    # A path of the machine that it was made on says nothing to others.
    shown = name if _is_hub_name(name) or "/" not in name else Path(name).name
    return f"`{part.type}`" + (f", `{shown}`" if shown else "")


def _millions(count: int) -> str:
    for size, word in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if count >= size:
            return f"{count / size:.1f} {word} parameters"
    return f"{count} parameters"


def _prompt_section(assembly: Assembly) -> str:
    template = assembly.template.for_tokenizer(assembly.tokenizer)
    stops = ", ".join(f"`{_shown(text)}`" for text in template.stop) or "the end-of-sequence token alone"
    name = assembly.recipe_model.template.type if assembly.recipe_model else type(template).__name__
    return f"## Prompts\n\nConversation template `{name}`. An answer ends at {stops}."


def _shown(text: str) -> str:
    return text.replace("\n", "\\n")


def _training_section(origin: Origin) -> str:
    parts = ["## Training"]
    if origin.recipe is None:
        parts.append("How it was trained is not recorded in the folder that it was exported from.")
    else:
        parts.append("Data: " + (", ".join(f"`{source}`" for source in origin.data) or "see the recipe") + ".")
    if origin.scores is None:
        parts.append("Scores: none are recorded.")
    else:
        parts.append(_scores(origin.scores))
    if origin.recipe is not None:
        parts.append("<details><summary>Recipe</summary>\n\n```yaml\n" + origin.recipe.strip() + "\n```\n\n</details>")
    return "\n\n".join(parts)


def _scores(scores: Mapping[str, Any]) -> str:
    columns = [name for name in ("accuracy", "wrong_picture", "majority") if isinstance(scores.get(name), Mapping)]
    titles = {"accuracy": "right", "wrong_picture": "right with a wrong picture", "majority": "always the commonest answer"}
    if not columns:
        return "Scores: see `evaluation.json` of the run."
    counts = scores.get("questions_by_type") or {}
    rows: list[Row] = [("type", "questions", *(titles[name] for name in columns))]
    for kind in scores["accuracy"]:
        shares = [f"{scores[name][kind]:.1%}" if kind in scores[name] else "" for name in columns]
        rows.append((kind, str(counts.get(kind, "")), *shares))
    return f"Scores on the {scores.get('questions', '')} questions of the recipe's benchmark:\n\n" + _table(rows)


def _list_section(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line[0].upper()}{line[1:]}." for line in lines)


def _table(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _bases(assembly: Assembly) -> list[str]:
    """Hub names of what it was made from; local folders say nothing to others."""
    block = assembly.recipe_model
    if block is None:
        return []
    encoders = block.encoder if isinstance(block.encoder, tuple) else (block.encoder,)
    names = [part.options.get("checkpoint") for part in (*encoders, block.language_model)]
    return [name for name in names if isinstance(name, str) and _is_hub_name(name)]


def _is_hub_name(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def _data_of(recipe: str | None) -> tuple[str, ...]:
    stages = (yaml.safe_load(recipe) or {}).get("stages") or {} if recipe else {}
    found = []
    for name, stage in stages.items():
        source = Part.model_validate(stage["data"]["source"])
        place = source.options.get("path") or source.options.get("file") or source.options.get("name") or ""
        found.append(f"{name}: {source.type}" + (f" {Path(str(place)).name}" if place else ""))
    return tuple(found)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return None
