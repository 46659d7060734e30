"""`llava-kit env`: facts for a bug report, also when something is wrong; no paths."""

import json
import sys

from llava_kit.cli.main import main


def test_facts(toy_recipe, capsys, monkeypatch):
    monkeypatch.setenv("LLAVA_KIT_SOMETHING", "said")
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["torch"][0].isdigit()
    assert "toy (llava-kit-toy 1.0)" in facts["plugins"]
    assert facts["variables"]["LLAVA_KIT_SOMETHING"] == "said"
    assert facts["broken"] == ["none"]
    assert "splicer toy_kernel: not here: no such device" in facts["kernels"]
    told = facts["kernels"].index("loss toy_loss: not here: no such head")
    assert facts["kernels"][told + 1] == "  says this"
    assert sys.prefix not in json.dumps(facts)
    assert main(["env"]) == 0
    assert "torch " in capsys.readouterr().out


def test_what_is_wrong_is_a_fact_too(toy_recipe, make_plugin, capsys, monkeypatch):
    make_plugin("bad", "import a_library_that_is_not_installed\n")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert "torch cannot be used: ModuleNotFoundError" in facts["devices"][0]
    assert "bad (llava-kit-bad 1.0)" in facts["broken"][0]
    monkeypatch.setenv("LLAVA_KIT_PLUGINS", "nobody")
    assert main(["env", "--json"]) == 0
    assert "which is not installed" in json.loads(capsys.readouterr().out)["plugins"][0]
