"""Every code that this project's code gives a bad sample stands in the table, so that a report can say what to do."""

import ast
from pathlib import Path

import llava_kit
from llava_kit.audit.reasons import OTHER, REASONS, SEVERITIES, reason_of

ROOT = Path(llava_kit.__file__).parents[1]


def _calls(tree, name):
    return [
        call
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "id", getattr(call.func, "attr", "")) == name
    ]


def reasons_in(text):
    """The codes that a file names: given to SampleError, or to a function of the file that gives its first word to it."""
    tree = ast.parse(text)
    givers = {"SampleError"}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.args.args:
            first = next((one.arg for one in function.args.args if one.arg not in ("self", "cls")), None)
            made = [call.args[0] for call in _calls(function, "SampleError") if call.args]
            if any(isinstance(given, ast.Name) and given.id == first for given in made):
                givers.add(function.name)
    found = set()
    for giver in givers:
        for call in _calls(tree, giver):
            parts = ast.walk(call.args[0]) if call.args and isinstance(call.args[0], ast.Constant | ast.IfExp) else ()
            found |= {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return found


def test_the_reader_of_code_sees_what_it_must():
    text = 'def _e(reason, m):\n    return SampleError(reason, m)\n_e("one", 1)\n'
    text += 'SampleError("two" if x else "three", "m")\nf("four")\n'
    assert reasons_in(text) == {"one", "two", "three"}


def test_every_reason_in_the_code_is_in_the_table():
    files = [path for folder in ("llava_kit", "plugins") for path in (ROOT / folder).rglob("*.py")]
    found = {}
    for path in files:
        text = path.read_text(encoding="utf-8")
        for reason in reasons_in(text) if "SampleError(" in text else ():
            found.setdefault(reason, path.relative_to(ROOT))
    assert {"missing_image", "fetch_failed", "bad_row", "too_long", "bad_box"} <= found.keys()
    assert {reason: str(path) for reason, path in found.items() if reason not in REASONS} == {}


def test_the_table_is_sound_and_what_it_lacks_is_an_error():
    assert all(reason.severity in SEVERITIES and reason.means and reason.todo for reason in REASONS.values())
    assert reason_of("of_some_plugin") is OTHER
    assert OTHER.severity == "error"
