"""The verb: what it refuses, the file that it writes, and that Ctrl-C ends its server."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from urllib.request import urlopen

import pytest
from PIL import Image

from llava_kit.cli.main import main


@pytest.fixture
def data(tmp_path):
    Image.new("RGB", (64, 32), "navy").save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Blue at [0.1, 0.2, 0.3, 0.4]."}]
    rows = [{"id": f"row {number}", "image": "a.png", "conversations": turns} for number in range(5)]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    return tmp_path / "data.json"


def blocks(path) -> dict:
    found = re.findall(r'id="data-([a-z0-9-]+)">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def test_a_file_of_a_path(data, tmp_path, capsys):
    out = tmp_path / "out.html"
    assert main(["data", "view", str(data), "--static", str(out), "--limit", "3"]) == 0
    assert f"{out}: the first 3 of 5 samples" in capsys.readouterr().out
    found = blocks(out)
    assert [row["id"] for row in found["rows"]] == ["row 0", "row 1", "row 2"]
    assert found["sample-0"]["text_boxes"][0]["picture"] == [0.1, 0.2, 0.3, 0.4]
    assert found["sample-0"]["tokens"] is found["sample-0"]["pictures"][0]["cut"] is None


def test_a_recipe_colours_what_inspect_says_is_learnt(tmp_path, capsys):
    out = tmp_path / "out.html"
    words = ["quickstart_next", "--stage", "instruct"]
    assert main(["data", "view", *words, "--static", str(out), "--limit", "2"]) == 0
    capsys.readouterr()
    assert main(["inspect", "tokens", *words, "--json", "--index", "0", "1"]) == 0
    looks = json.loads(capsys.readouterr().out)
    found = blocks(out)
    assert found["about"]["recipe"] == "quickstart-next, stage instruct"
    for number, look in enumerate(looks):
        sample = found[f"sample-{number}"]
        assert sample["id"] == look["id"]
        assert [kind == 1 for _, kind, _ in sample["tokens"]["pieces"]] == [label != -100 for label in look["labels"]]
        assert sample["pictures"][0]["cut"]["rows"] == sample["tokens"]["visual"] + sample["tokens"]["newlines"]


def test_a_recipe_for_a_path_without_its_tokenizer(data, tmp_path, capsys):
    out = tmp_path / "out.html"
    assert (
        main(["data", "view", str(data), "--recipe", "llava_next_vicuna_7b", "--stage", "instruct", "--static", str(out)]) == 0
    )
    assert "Tiles are shown, tokens are not: " in capsys.readouterr().out
    found = blocks(out)
    assert found["about"]["note"].startswith("Tiles are shown")
    assert found["sample-0"]["pictures"][0]["cut"]["tiles"] == [1, 2]  # the first of two that waste the same
    assert found["sample-0"]["tokens"] is None


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        ([], "expected PATH, RECIPE, or --source", 2),
        (["{data}", "--host", "0.0.0.0"], "expected 127.0.0.1", 2),
        (["{data}", "--host", "192.168.0.7"], "use `ssh -L", 2),
        (["{data}", "--port", "99999"], "expected 0", 2),
        (["{data}", "--max-mb", "3"], "and --static", 2),
        (["{data}", "--static", "x.html", "--max-mb", "nan"], "expected a number above 0", 2),
        (["{data}", "--static", "x.html", "--max-mb", "0.001"], "`--max-mb` allows more", 2),
        (["{data}", "--static", "nowhere/x.html"], "cannot be written", 2),
        (["{data}", "--limit", "0"], "expected at least 1", 2),
        (["{data}", "--recipe", "quickstrat"], "quickstart", 2),
        (["quickstart", "--recipe", "quickstart"], "expected one or the other", 2),
        (["nowhere.json"], "nowhere.json", 3),
    ],
)
def test_mistakes(data, tmp_path, capsys, monkeypatch, words, told, code):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "view", *(word.format(data=data) for word in words)]) == code
    errors = capsys.readouterr().err
    assert told in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "x.html").exists()


START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell is started with Ctrl-C ignored
from llava_kit.cli.main import main
sys.exit(main(["data", "view", sys.argv[1]]))
"""


def test_ctrl_c_ends_it(data):
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(data)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        with urlopen(address + "rows?text=blue") as answer:
            assert json.load(answer)["of"] == 5
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, said, errors) == (0, "ended\n", "")
