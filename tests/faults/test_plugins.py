"""Row 5 of the fault table: a plugin that fails is told and left out, the others load; a name that two claim is refused."""

import subprocess
import sys

import pytest

from llava_kit.errors import RecipeError
from llava_kit.recipe.load import load_recipe
from llava_kit.registry.manager import default_registry

FAULTS = {
    "raises": "raise RuntimeError('at import')",
    "imports": "import a_library_that_is_not_installed",
    "syntax": "def f(:\n",
    "exits": "import sys\nsys.exit(9)",
    "recursion": "def f():\n    f()\nf()",
    "hook_raises": "from llava_kit import hookimpl\n@hookimpl\ndef register_encoders(register):\n    raise KeyError('hook')",
    "misspelt_hook": "from llava_kit import hookimpl\n@hookimpl\ndef register_encoder(register):\n    pass",
    "wrong_options": (
        "from llava_kit import hookimpl\n@hookimpl\ndef register_encoders(register):\n"
        "    register('x', options=dict, build=print)"
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_plugin_s_fault_stays_its_own(toy_recipe, make_plugin, fault):
    make_plugin("aaa", FAULTS[fault])  # comes before `toy` and all of ours
    registry = default_registry()
    assert [broken.name for broken in registry.broken] == ["aaa"]
    assert registry.broken[0].reason
    assert registry.broken[0].traceback
    assert load_recipe(toy_recipe).name == "toy"


def test_the_fault_is_fatal_to_a_recipe_that_needs_the_plugin(toy_recipe, make_plugin):
    make_plugin("fancy", FAULTS["imports"])
    with pytest.raises(RecipeError) as told:
        load_recipe(toy_recipe, ["model.connector.type=fancy"])
    assert "connector 'fancy' belongs to the broken plugin fancy (llava-kit-fancy 1.0): ModuleNotFoundError" in str(told.value)
    with pytest.raises(RecipeError) as told:
        load_recipe(toy_recipe, ["model.connector.type=swish_mlp"])
    assert "there is no connector 'swish_mlp'" in str(told.value)
    assert "a broken plugin may have provided it: fancy (llava-kit-fancy 1.0)" in str(told.value)


def test_a_name_that_two_distributions_claim_is_refused_and_both_are_named(toy_recipe, make_plugin):
    hook = "from llava_kit import hookimpl\n@hookimpl\ndef register_connectors(register):\n    register('toy_mlp', build=print)"
    make_plugin("toy", hook, distribution="stranger")
    with pytest.raises(RecipeError) as told:
        load_recipe(toy_recipe)
    [problem] = told.value.problems
    assert "toy (llava-kit-toy 1.0) and toy (stranger 1.0)" in problem
    assert "-p no:stranger" in problem


def test_the_advice_works(toy_recipe, make_plugin):
    hook = "from llava_kit import hookimpl\n@hookimpl\ndef register_connectors(register):\n    register('toy_mlp', build=print)"
    make_plugin("toy", hook, distribution="stranger")
    command = [sys.executable, "-m", "llava_kit", "-p", "no:stranger", "recipe", "check", "toy.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "toy.yaml: well\n")
