"""The rules of the tree that no linter knows."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = sorted(path for room in ("llava_kit", "plugins", "kernels") for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_says_its_reason_and_stays_small(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""'), "a file begins with one sentence on its reason"
    assert text.count("\n") <= 400, "a file of more than 400 lines has more than one reason"
    assert not re.search(r"^from \S+ import \*", text, re.MULTILINE), "no star import"
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)
    if "cli" not in path.parts and "benchmarks" not in path.parts:
        assert not re.search(r"^\s*print\(", text, re.MULTILINE), "only the command line prints"


@pytest.mark.parametrize("folder", ["plugins", "kernels", "recipes"])
def test_the_three_roots_are_no_packages(folder):
    """An `__init__.py` in kernels/ would hide Hugging Face's package of that name from whoever works from the root."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_tests_mirror_the_rooms():
    for path in sorted((ROOT / "llava_kit").glob("*/*.py")):
        room = path.parent.name
        if path.name == "__init__.py" or room == "core":
            continue
        assert (ROOT / "tests" / room).is_dir(), f"no tests for the room {room}"


def test_every_room_has_a_plaque():
    for plaque in (ROOT / "llava_kit").glob("*/__init__.py"):
        assert plaque.read_text(encoding="utf-8").count("\n") >= 1
        assert "Being built" not in plaque.read_text(encoding="utf-8"), plaque
