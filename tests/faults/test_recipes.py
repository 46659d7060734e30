"""Rows 1 to 4 of the fault table: whatever stands in a recipe file, exit code 2, a line to go to, no trace, within a second."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llava_kit.cli.main import main
from llava_kit.errors import RecipeError
from llava_kit.recipe.load import load_recipe
from llava_kit.recipe.reader import read_text
from llava_kit.recipe.tree import plain

SECONDS = 10.0  # a hang, not a speed: on a calm machine each takes well under a second
MEGABYTES = 200

HOSTILE = {
    "python object": b"a: !!python/object/apply:os.system ['touch pwned']",
    "python name": b"a: !!python/name:os.system",
    "alias bomb": b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (c, c, c - 1, c - 1) for c in range(98, 123)),
    "self-reference": b"&a [*a]",
    "merge key": b"base: &b {a: 1}\nuse: {<<: *b}",
    "nested lists": b"[" * 20_000,
    "nested mappings": b"{a: " * 20_000,
    "nested blocks": b"".join(b" " * depth + b"a:\n" for depth in range(1000)),
    "nested dashes": b"- " * 20_000,
    "nested questions": b"? " * 20_000,
    "five megabytes": b"a: " + b"x" * 5_000_000,
    "a million values": b"[" + b"a," * 499_000 + b"]",
    "a million keys": b"".join(b"k%d: 1\n" % n for n in range(90_000)),
    "equal keys": b"a: 1\n" * 90_000,
    "not UTF-8": "name: é".encode("latin-1"),
    "UTF-16": "name: a".encode("utf-16"),
    "zero bytes": b"\0" * 1000,
    "control characters": b"name: \x1b[2J",
    "a long number": b"seed: " + b"9" * 900_000,
    "a long exponent": b"seed: 1e" + b"9" * 300,
    "underscores": b"seed: " + b"1_" * 400_000,
    "colons": b"seed: 1" + b":0" * 400_000,
    "a long key": b"k" * 900_000 + b": 1",
    "open quote": b'name: "' + b"x" * 900_000,
    "directives": b"%YAML 1.1\n%TAG ! tag:x,2000:\n---\n!foo bar",
    "many documents": b"---\na: 1\n" * 10_000,
    "empty": b"",
    "a list": b"- a",
    "only text": b"hello",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_a_second(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_bytes(HOSTILE[name])
    started = time.process_time()
    assert main(["recipe", "check", "r.yaml"]) == 2
    assert time.process_time() - started < SECONDS
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert told.startswith("r.yaml:")
    assert len(told) < 20_000
    assert "\x1b" not in told
    assert not (tmp_path / "pwned").exists()


CHECK_AND_WEIGH = """
import sys
from llava_kit.cli.main import main
code = main(["recipe", "check", *sys.argv[1:]])
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(code, int(peak) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of its memory from /proc")
def test_memory_stays_small(tmp_path):
    """All hostile files one after another, in a process of its own."""
    for number, data in enumerate(HOSTILE.values()):
        (tmp_path / f"{number}.yaml").write_bytes(data)
    command = [sys.executable, "-c", CHECK_AND_WEIGH, *map(str, sorted(tmp_path.glob("*.yaml")))]
    code, megabytes = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[-1].split()
    assert code == "2"
    assert int(megabytes) < MEGABYTES


def test_an_unknown_key(toy_recipe, capsys):
    text = toy_recipe.read_text().replace("name:", "nme:").replace("steps:", "stpes:")
    toy_recipe.write_text(text, encoding="utf-8")
    assert main(["recipe", "check", "toy.yaml"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert "toy.yaml:1: nme: unknown key; did you mean 'name'?" in told
    assert "toy.yaml:11: stages.align.stpes: unknown key; did you mean 'steps'?" in told


def test_an_equal_key(toy_recipe, capsys):
    toy_recipe.write_text(toy_recipe.read_text() + "seed: 1\nname: again\n", encoding="utf-8")
    assert main(["recipe", "check", "toy.yaml"]) == 2
    assert "toy.yaml:15: name: the key is given twice in this block: line 1 and line 15" in capsys.readouterr().err


def test_numbers_as_text_and_the_surprises_of_yaml(toy_recipe):
    assert load_recipe(toy_recipe, ["stages.align.train.connector.lr='1e-4'"]).stages["align"].train.connector.lr == 1e-4
    text = toy_recipe.read_text()
    for written, hint in [
        ("lr: no", "write false"),
        ("lr: 010", "write 8 or 10"),
        ("lr: 1:30", "base 60"),
        ("lr: true", "true"),
    ]:
        toy_recipe.write_text(text.replace("lr: 1e-3", written), encoding="utf-8")
        with pytest.raises(RecipeError, match=hint) as told:
            load_recipe(toy_recipe)
        assert f"{toy_recipe}:9: stages.align.train.connector.lr: " in str(told.value)
    for written in ("name: no", "name: 010", "name: 1:30", "name: 12", "name: true"):
        toy_recipe.write_text(text.replace("name: toy", written), encoding="utf-8")
        with pytest.raises(RecipeError, match=r":1: name: .*in quotes"):
            load_recipe(toy_recipe)


YAML_PIECES = st.sampled_from(
    [*"{}[],:-?&*!|>'\"%@`#\n\t ~", "a", "1", "name", "- ", ": ", "\n  ", "---", "...", "<<", "1e-4", "é"]
)


def problems_of(call):
    """What a call complains about; anything but a RecipeError is a fault of ours and comes through."""
    try:
        call()
    except RecipeError as error:
        return error.problems
    return []


@settings(max_examples=400, deadline=None)
@given(st.lists(YAML_PIECES, max_size=60).map("".join))
@example("a: |\n  b\n c")
@example("? a\n? b")
@example("'a': \"\\x41\"")
@example("a: >2\n\n\n x")
def test_any_text_is_a_tree_or_a_recipe_error(text):
    """And what it means does not change when it is read again."""
    problems = problems_of(lambda: read_text(text, "f"))
    assert all(problem.startswith("f:") for problem in problems)
    if not problems:
        assert plain(read_text(text, "f")) == plain(read_text(text, "f"))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_file_is_a_recipe_or_a_recipe_error(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("fuzz") / "r.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RecipeError):  # no text of this size is a whole recipe
        load_recipe(path)


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "lr", "mode", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = [
    "name",
    "seed",
    "model",
    "model.encoder",
    "model.splicer",
    "model.loss",
    "model.tiling",
    "model.tiling.pinpoints",
    "stages",
    "stages.align",
    "stages.align.train",
    "stages.align.data.source",
    "stages.align.start_from",
    "stages.align.micro_batch_size",
    "stages.align.schedule",
    "stages.align.validate",
    "evaluate",
]


# The recipe file is only read, so the examples may share it.
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(KEYS), JSON_LIKE)
def test_any_value_at_any_key_is_accepted_or_told(toy_recipe, key, value):
    """No rule and no plugin's options class falls over a value of the wrong kind."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
    problems = problems_of(lambda: load_recipe(toy_recipe, [f"{key}={text}"]))
    assert all(problems)  # none is empty
