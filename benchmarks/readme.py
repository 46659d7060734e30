"""Fills in the README's tables from what was measured and from the files it shows: `python -m benchmarks.readme`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHOUT = ROOT / "tests" / "out_of_tree" / "llava-kit-shout" / "llava_kit_shout"


def render(text: str) -> str:
    """The README with each `<!--name-->...<!--/name-->` filled in."""
    for name, content in {"plugin": plugin(), "accuracy": accuracy(), "bench": bench(), "gpu": gpu()}.items():
        text = re.sub(rf"(<!--{name}-->\n).*?(<!--/{name}-->)", lambda m, c=content: m[1] + c + m[2], text, flags=re.DOTALL)
    return text


def plugin() -> str:
    """The tutorial's plugin as it stands in the tests that install it."""
    return "".join(
        f"```python\n# llava_kit_shout/{name}\n{(SHOUT / name).read_text(encoding='utf-8')}```\n"
        for name in ("__init__.py", "connector.py")
    )


def accuracy() -> str:
    """The quick start's accuracy, from the result that row C8 left."""
    result = load("quickstart")
    if result is None:
        return ""
    tables = [run["evaluation"] for run in result["runs"]]
    first = tables[0]
    kinds = list(first["accuracy"])
    lines = ["| |" + "|".join(f" {kind} " for kind in kinds) + "|", "|---|" + "---|" * len(kinds)]
    for number, table in enumerate(tables):
        lines.append(row(f"right picture, seed {result['runs'][number]['seed']}", table["accuracy"], kinds))
    unseen = [table["groups"]["unseen"]["accuracy"] for table in tables]
    lines.append(
        row("on combinations never seen in training (worst seed)", {k: min(u[k] for u in unseen) for k in kinds}, kinds)
    )
    lines.append(row("wrong picture, seed 0", first["wrong_picture"], kinds))
    lines.append(row("majority answer", first["majority"], kinds))
    walls = [f"{run['seconds']:.0f} s" for run in result["runs"] if run["seconds"] is not None]
    told = f"{first['questions']:,} held-out questions a seed"
    if walls:
        told += f"; {', '.join(walls)} from start to report on {result['environment']['cores']} cores"
    return "\n".join(lines) + f"\n\n{told} ({result['environment']['processor']}).\n"


def row(label: str, values: dict[str, float], kinds: list[str]) -> str:
    return f"| {label} |" + "|".join(f" {values[kind]:.1%} " for kind in kinds) + "|"


def bench() -> str:
    """One line a figure that has a target."""
    lines = ["| row | measured | | target |", "|---|---|---:|---|"]
    for name in ("preprocess", "tokenise", "request", "splice", "packing", "startup", "convert", "check", "datagen", "filter"):
        result = load(name)
        for figure in (result or {}).get("figures", []):
            if figure["at_least"] is None and figure["at_most"] is None:
                continue
            target = f"≥ {figure['at_least']:.3g}" if figure["at_least"] is not None else f"≤ {figure['at_most']:.3g}"
            lines.append(f"| {result['row']} | {figure['name']} | {figure['value']:.3g} {figure['unit']} | {target} |")
    return "\n".join(lines) + "\n"


def gpu() -> str:
    """A table for each GPU that `make gpu` ran on, of its latest run; a sentence while there is none."""
    latest: dict[str, dict] = {}
    for path in sorted(RESULTS.glob("*-20[0-9][0-9]-[0-9][0-9]-[0-9][0-9].json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["device"] not in latest or result["date"] >= latest[result["device"]]["date"]:
            latest[result["device"]] = result
    return "\n".join(map(gpu_table, latest.values())) or "Not yet measured on a GPU.\n"


def gpu_table(result: dict) -> str:
    """One line a figure that has a target, then what was broken, left out or cut off."""
    lines = [f"{result['device']}, {result['date']}:", "", "| row | measured | | target | |", "|---|---|---:|---|---|"]
    remarks = []
    for name, found in sorted(result["rows"].items()):
        for figure in found.get("figures", []):
            if figure["at_least"] is None and figure["at_most"] is None:
                continue
            target = f"≥ {figure['at_least']:.3g}" if figure["at_least"] is not None else f"≤ {figure['at_most']:.3g}"
            met = "" if figure["met"] else "missed"
            lines.append(f"| {name} | {figure['name']} | {figure['value']:.3g} {figure['unit']} | {target} | {met} |")
        remarks += [f"{name}: does not hold: {claim['claim']}" for claim in found.get("claims", []) if not claim["holds"]]
        remarks += [f"{name}: failed: {error['part']}" for error in found.get("errors", [])]
        remarks += [f"{name}: {note}" for note in found.get("notes", []) if "left out" in note or "cut off" in note]
    tests = result.get("tests", {})
    if "passed" in tests:
        told = f"GPU tests: {tests['passed']} passed, {tests['failed'] + tests['error']} failed"
        remarks.insert(0, told + ("" if tests["finished"] else ", cut off"))
    return "\n".join(lines) + "\n" + "".join(f"\n- {remark}" for remark in remarks) + ("\n" if remarks else "")


def load(name: str) -> dict | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def main() -> int:
    readme = ROOT / "README.md"
    readme.write_text(render(readme.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
