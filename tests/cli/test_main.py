"""The front door: verbs, global options, exit codes, and what is told when something goes wrong."""

import os
import subprocess
import sys

import pytest

from llava_kit import __version__, errors
from llava_kit.cli import main as front
from llava_kit.cli.main import main
from llava_kit.registry import manager

RAISES = """
from llava_kit import LlavaKitError, hookimpl
from llava_kit.errors import CheckpointError, DataError

def raiser(error):
    def run(arguments):
        raise error
    return lambda: (lambda parser: None, run)

@hookimpl
def register_commands(register):
    register("stopped", build=raiser(DataError("the data are gone")))
    register("damaged", build=raiser(CheckpointError("bent")))
    register("bug", build=raiser(ZeroDivisionError("oh")))
    register("full", build=raiser(OSError(28, "No space left on device", "out/a.jsonl")))
    register("ctrl_c", build=raiser(KeyboardInterrupt()))
    register("shown", build=lambda: (lambda parser: parser.add_argument("--n", type=int), lambda arguments: arguments.n))
    register("nothing", build=lambda: (lambda parser: None, lambda arguments: None))
"""


def shell(*arguments, **more):
    return subprocess.run([sys.executable, "-m", "llava_kit", *arguments], capture_output=True, text=True, **more)


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_every_verb(arguments, capsys):
    try:
        code = main(arguments)
    except SystemExit as left:
        code = left.code
    assert code == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown and line in shown for verb, line in front.VERBS.items())


def test_version(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"llava-kit {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--foo"], "unknown option --foo"),
        (["--vers"], "unknown option --vers"),
        (["-p", "shapes", "env"], "write -p no:NAME"),
        (["-p", "no:", "env"], "write -p no:NAME"),
        (["-p"], "expected one argument"),
        (["plugins", "list", "--foo"], "unrecognized arguments: --foo"),
        (["plugins"], "required: list|show|doctor"),
    ],
)
def test_wrong_options_end_with_two(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert complaint in capsys.readouterr().err


def test_an_unknown_verb_is_answered_with_the_nearest(toy_recipe, capsys):
    assert main(["trian"]) == 2
    assert "there is no verb 'trian'; did you mean 'train'?" in capsys.readouterr().err
    assert main(["toy_vreb"]) == 2
    assert "did you mean 'toy_verb'?" in capsys.readouterr().err
    assert main(["xyzzy"]) == 2
    assert "verbs: train, chat" in capsys.readouterr().err


def test_a_verb_of_a_plugin(toy_recipe, capsys):
    assert main(["toy_verb", "hello"]) == 0
    assert capsys.readouterr().out == "hello\n"


@pytest.mark.parametrize(
    ("verb", "code", "told"),
    [
        ("stopped", 3, "llava-kit: the data are gone\n"),
        ("damaged", 4, "llava-kit: bent\n"),
        (
            "full",
            1,
            "llava-kit: out/a.jsonl: cannot be written: No space left on device; make room, then give the command again\n",
        ),
        ("ctrl_c", 130, "interrupted\n"),
        ("nothing", 0, ""),
    ],
)
def test_exit_codes(make_plugin, capsys, verb, code, told):
    make_plugin("raises", RAISES)
    assert main([verb]) == code
    assert capsys.readouterr().err == told
    assert main(["shown", "--n", "7"]) == 7


def test_the_trace_is_shown_on_request(make_plugin, capsys):
    make_plugin("raises", RAISES)
    assert main(["--traceback", "stopped"]) == 3
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.endswith("llava-kit: the data are gone\n")


def test_a_bug_is_told_with_its_trace_and_how_to_report_it(make_plugin, capsys):
    make_plugin("raises", RAISES)
    assert main(["bug"]) == 1
    told = capsys.readouterr().err
    assert "ZeroDivisionError: oh" in told
    assert "`llava-kit env`" in told.splitlines()[-1]


def test_recipe_problems_are_lines_of_their_own(toy_recipe, capsys):
    toy_recipe.write_text("nme: x\n", encoding="utf-8")
    assert main(["recipe", "show", "toy.yaml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "toy.yaml:1: nme: unknown key; did you mean 'name'?" in lines
    assert lines[-1] == f"llava-kit: {len(lines) - 1} problems; nothing was started"


def test_a_blocked_plugin_is_not_there_and_comes_back(toy_recipe, capsys, monkeypatch):
    monkeypatch.delenv(manager.BLOCKED, raising=False)
    assert main(["-p", "no:toy", "plugins", "show", "toy_mlp"]) == 2
    assert manager.BLOCKED not in os.environ
    assert main(["plugins", "show", "toy_mlp"]) == 0
    monkeypatch.setenv(manager.BLOCKED, "shapes")
    assert main(["-p", "no:toy", "-p", "no:clip", "plugins", "list"]) == 0
    assert os.environ[manager.BLOCKED] == "shapes"
    capsys.readouterr()
    assert main(["-p", "no:tyo", "plugins", "list"]) == 2
    assert "did you mean 'toy'?" in capsys.readouterr().err


def test_both_names_of_the_variable_are_one():
    assert front.BLOCKED == manager.BLOCKED


def test_every_exit_code_of_the_errors_is_in_the_help():
    codes = {error.exit_code for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "exit_code")}
    assert all(f"{code} " in front.EPILOG for code in codes)


def test_a_closed_pipe_is_quiet(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "llava_kit", "recipe", "schema"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_ascii_terminal_gets_escapes(toy_recipe):
    toy_recipe.write_text(toy_recipe.read_text() + "description: äpfel\n", encoding="utf-8")
    done = shell("recipe", "show", "toy.yaml", env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0
    assert r"\xe4pfel" in done.stdout
