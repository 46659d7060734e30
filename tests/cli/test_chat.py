"""The verb `chat`: answers, a conversation read from the input, and options that are checked before a model is read."""

import io
import sys

import pytest
from PIL import Image

import llava_kit
from llava_kit.assemble.weights import save_model
from llava_kit.cli.main import main
from llava_kit.recipe.schema import COMPONENTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tests.conftest import TOY

    folder = tmp_path_factory.mktemp("chat")
    save_model(llava_kit.assemble({name: dict(block) for name, block in TOY.items()}, seed=0), folder / "model", COMPONENTS)
    Image.new("RGB", (40, 30), "red").save(folder / "red.png")
    return folder


def chat(folder, *arguments):
    return main(["chat", str(folder / "model"), "--device", "cpu", "--max-new-tokens", "6", *arguments])


def test_asks_and_leaves(folder, capsys):
    assert chat(folder, "--image", str(folder / "red.png"), "--ask", "What is it?", "--ask", "And now?") == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert (lines[0], lines[2], len(lines)) == ("> What is it?", "> And now?", 4)
    assert shown.err == ""


def test_options_reach_the_answer(folder, capsys):
    def answer(*options):
        assert chat(folder, "--ask", "What is it?", *options) == 0
        return capsys.readouterr().out.splitlines()[1]

    greedy = answer()
    assert answer("--temperature", "1.5", "--seed", "1") == answer("--temperature", "1.5", "--seed", "1")
    assert answer("--temperature", "1.5", "--top-k", "1") == greedy
    assert answer("--num-beams", "4", "--length-penalty", "0") != greedy
    assert answer("--stop", "never said", "--stop", greedy[3:5]) == greedy[: greedy.index(greedy[3:5])].strip()
    assert answer("--repetition-penalty", "1.01", "--min-p", "0.1", "--top-p", "0.9")


def test_wrong_options_are_told_together_before_a_model_is_read(tmp_path, capsys):
    code = main(["chat", str(tmp_path / "nowhere"), "--ask", "hi", "--temperature", "-1", "--num-beams", "0", "--stop", ""])
    assert code == 2
    told = capsys.readouterr().err
    assert all(name in told for name in ("temperature: found -1.0", "num_beams: found 0", "stop: found ['']"))


def test_a_conversation_goes_on_after_a_mistake(folder, capsys, monkeypatch):
    lines = [
        "/image nowhere.png",
        f"/image {folder / 'red.png'}",
        "What is it?",
        "",
        "/what",
        "And now?",
        "/clear",
        "/quit",
        "no",
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    assert chat(folder) == 0
    shown = capsys.readouterr()
    assert "nowhere.png" in shown.err
    assert shown.out.count("1 with the next question") == 1
    assert "/clear" in shown.out  # the help
