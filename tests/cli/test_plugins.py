"""`llava-kit plugins`: what is installed, what it takes, what is wrong with it."""

import json

import pytest

from llava_kit.cli.main import main

BROKEN = "import a_library_that_is_not_installed\n"


def test_list(toy_recipe, capsys):
    assert main(["plugins", "list", "toy*"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["KIND", "NAME", "PLUGIN", "SUMMARY"]
    assert "toy (llava-kit-toy 1.0)" in shown[1]
    assert shown[1].endswith("Toy encoder.")
    assert any(line.endswith("A summary of its own.") for line in shown)
    assert main(["plugins", "list", "--kind", "source", "toy*"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == ["toy_data"]
    assert main(["plugins", "list", "--kind", "sauce"]) == 2
    assert "did you mean 'source'?" in capsys.readouterr().err


def test_a_broken_plugin_is_listed_beside_the_others(toy_recipe, make_plugin, capsys):
    make_plugin("bad", BROKEN)
    assert main(["plugins", "list"]) == 0
    shown = capsys.readouterr()
    assert "toy_mlp" in shown.out
    assert "broken: bad (llava-kit-bad 1.0): ModuleNotFoundError" in shown.err


def test_list_for_programs(toy_recipe, make_plugin, capsys):
    make_plugin("bad", BROKEN)
    assert main(["plugins", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {
        "kind": "connector",
        "name": "toy_mlp",
        "summary": "A summary of its own.",
        "plugin": "toy",
        "distribution": "llava-kit-toy",
        "version": "1.0",
    } in listed["entries"]
    assert [broken["name"] for broken in listed["broken"]] == ["bad"]
    assert "a_library_that_is_not_installed" in listed["broken"][0]["traceback"]


def test_show_a_part(toy_recipe, capsys):
    assert main(["plugins", "show", "toy"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("encoder toy: Toy encoder.\nfrom toy (llava-kit-toy 1.0)\n")
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines()[2:]}
    assert rows["checkpoint"] == ["str", "required"]
    assert rows["layer"] == ["int", "-2"]
    assert main(["plugins", "show", "toy", "--json"]) == 0
    [part] = json.loads(capsys.readouterr().out)
    assert part["options"][1] == {"key": "layer", "type": "int", "required": False, "default": -2, "description": ""}


def test_show_a_plugin(toy_recipe, capsys):
    assert main(["plugins", "show", "llava-kit-toy"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("encoder toy", "connector toy_mlp", "source toy_data"))
    assert "no options" in shown


@pytest.mark.parametrize(("name", "complaint"), [("toy_mpl", "did you mean 'toy_mlp'?"), ("bad", "Traceback")])
def test_show_what_is_not_there(toy_recipe, make_plugin, capsys, name, complaint):
    make_plugin("bad", BROKEN)
    assert main(["plugins", "show", name]) == 2
    assert complaint in capsys.readouterr().err


def test_the_doctor_of_the_well(toy_recipe, capsys):
    assert main(["plugins", "doctor"]) == 0
    shown = capsys.readouterr().out
    assert "not here: splicer 'toy_kernel': no such device" in shown
    assert shown.endswith("0 plugins are broken\n")


def test_the_doctor_finds_everything(toy_recipe, make_plugin, capsys):
    hook = "from __future__ import annotations\nfrom llava_kit import Options, hookimpl\n"
    make_plugin("bad", BROKEN)
    make_plugin(
        "odd",
        hook + "class O(Options):\n    x: Nowhere = 1\n"
        "@hookimpl\ndef register_connectors(register):\n    register('odd', options=O, build=print)\n",
    )
    make_plugin("twin", hook + "@hookimpl\ndef register_connectors(register):\n    register('toy_mlp', build=print)\n")
    make_plugin("verb", hook + "@hookimpl\ndef register_commands(register):\n    register('train', build=print)\n")
    assert main(["plugins", "doctor"]) == 2
    shown = capsys.readouterr().out
    for expected in (
        "broken: bad (llava-kit-bad 1.0): ModuleNotFoundError",
        "conflict: connector 'toy_mlp' is registered by",
        "broken options: connector 'odd'",
        "hidden: the verb 'train' of verb (llava-kit-verb 1.0)",
    ):
        assert expected in shown
    assert main(["plugins", "doctor", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert [len(report[key]) for key in ("broken", "conflicts", "options", "hidden")] == [1, 1, 1, 1]
    # What the kernels say depends on the machine.
    assert {"toy_kernel", "toy_loss"} <= {entry["name"] for entry in report["unavailable"]}
    assert main(["-p", "no:bad", "-p", "no:odd", "-p", "no:twin", "plugins", "doctor"]) == 0
