"""`llava-kit export` as its user sees it: what is printed, the codes it ends with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from llava_kit.cli.main import main
from llava_kit.export import verify

sys.path.insert(0, str(Path(__file__).parents[1] / "exchange"))

from folders import make_model, make_processor, write_folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A LLaVA folder as transformers writes it."""
    model = make_model()
    return write_folder(tmp_path_factory.mktemp("source") / "llava", model, make_processor(model))


def test_summary(source, tmp_path, capsys):
    assert main(["export", str(source), str(tmp_path / "out"), "--verify"]) == 0
    out = capsys.readouterr().out
    assert "of weights, format transformers" in out
    assert "Compared with transformers" in out
    assert "passed: at most 1.0e-04" in out
    assert "very wide" in out
    assert f"vllm serve {tmp_path / 'out'}" in out
    assert "llama.cpp" in out
    assert "prove that" not in out  # it was proved


def test_original(source, tmp_path, capsys):
    assert main(["export", str(source), str(tmp_path / "out"), "--to", "original"]) == 0
    out = capsys.readouterr().out
    assert "format original" in out
    assert "--verify" in out
    assert "vllm serve" not in out


def test_json(source, tmp_path, capsys):
    assert main(["export", str(source), str(tmp_path / "out"), "--json", "--dtype", "bfloat16"]) == 0
    assert json.loads(capsys.readouterr().out)["dtype"] == "bfloat16"


def test_wrong_words(source, tmp_path, capsys):
    assert main(["export", str(source), str(tmp_path / "out"), "--to", "transformer"]) == 2
    assert "did you mean 'transformers'?" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "nothing"), str(tmp_path / "out")]) == 4


def test_full_folder(source, tmp_path, capsys):
    (tmp_path / "a").write_text("")
    assert main(["export", str(source), str(tmp_path)]) == 2
    assert "--force" in capsys.readouterr().err


def test_a_difference_ends_with_code_4(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verify, "FLOAT32_BOUND", -1.0)
    assert main(["export", str(source), str(tmp_path / "out"), "--verify"]) == 4
    assert "is not the model it was made of" in capsys.readouterr().err


def test_package_is_announced(tmp_path, capsys, toy):
    from recipes_small import assembled

    from llava_kit.assemble.weights import save_model

    save_model(assembled(toy), tmp_path / "model", ("encoder", "language_model"))
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("The classes of transformers cannot be this model, so a package was written instead:")
    assert "encoder: transformers has no tower" in out
    assert f"pip install {tmp_path / 'out'}" in out
