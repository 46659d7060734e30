"""From a file, or a name, to a checked recipe: bases, overrides, plugins' options, all mistakes at once."""

import re

import pytest

from llava_kit.errors import PluginError, RecipeError
from llava_kit.recipe.load import load_recipe, parse_part, parts_of, recipe_to_yaml
from llava_kit.recipe.schema import Part
from llava_kit.registry.manager import default_registry


def problems(path, *overrides):
    with pytest.raises(RecipeError) as told:
        load_recipe(path, overrides)
    return told.value.problems


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_is_read_and_its_plugins_defaults_written_out(toy_recipe):
    recipe = load_recipe(toy_recipe)
    assert recipe.stages["align"].train.components()["connector"].lr == 1e-3
    assert recipe.model.encoder.options == {
        "checkpoint": "a/b",
        "layer": -2,
        "rate": 0.5,
        "style": "plain",
        "inner": {"depth": 1},
        "size": 4,
    }


def test_number_written_as_text_is_a_number_where_one_is_wanted(toy_recipe):
    assert load_recipe(toy_recipe, ["stages.align.train.connector.lr='1e-4'"]).stages["align"].train.connector.lr == 1e-4


def test_every_mistake_at_once_each_with_its_line_and_the_right_key(toy_recipe):
    text = toy_recipe.read_text().replace("name: toy", "nme: toy").replace("checkpoint: a/b", "checkpont: a/b, rate: fast")
    text = text.replace("lr: 1e-3", "lr: -1, weight_decy: 0").replace("steps: 10", "steps: 10\n    epochs: 1\n    stpes: 3")
    assert problems(write(toy_recipe, text)) == [
        f"{toy_recipe}:1: nme: unknown key; did you mean 'name'?",
        f"{toy_recipe}:3: model.encoder.rate: expected a number, found 'fast'",
        f"{toy_recipe}:3: model.encoder.checkpont: unknown key; did you mean 'checkpoint'?",
        f"{toy_recipe}:9: stages.align.train.connector.lr: must be greater than 0, found -1",
        f"{toy_recipe}:9: stages.align.train.connector.weight_decy: unknown key; did you mean 'weight_decay'?",
        f"{toy_recipe}:11: stages.align.steps: give `epochs` or `steps`, not both; set the one that was inherited to null",
        f"{toy_recipe}:13: stages.align.stpes: unknown key; did you mean 'steps'?",
    ]


def test_true_is_not_a_number(toy_recipe):
    assert problems(toy_recipe, "stages.align.steps=true", "model.connector.width=true") == [
        "override stages.align.steps: expected a number, found true",
        "override model.connector.width: expected a number, found true",
    ]


def test_infinity_is_not_a_rate(toy_recipe):
    assert problems(toy_recipe, "stages.align.clip_norm=.inf") == [
        "override stages.align.clip_norm: must be a finite number, found inf"
    ]


def test_extends_names_the_file_and_line_that_said_it(toy_recipe):
    child = write(
        toy_recipe.with_name("child.yaml"),
        "extends: toy.yaml\nname: child\nmodel:\n  encoder: {layer: x}\nstages:\n  align: {micro_batch_size: 5}\n",
    )
    base = toy_recipe.read_text().replace("clip_norm: 1.0", "clip_nrm: 1.0")
    write(toy_recipe, base)
    assert set(problems(child)) == {
        f"{child}:4: model.encoder.layer: expected a whole number, found 'x'",
        f"{child}:6: stages.align.micro_batch_size: global_batch_size (16) must be a multiple of it, found 5",
        f"{toy_recipe}:13: stages.align.clip_nrm: unknown key; did you mean 'clip_norm'?",
    }


def test_extends_replaces_a_part_of_another_type_whole(toy_recipe):
    child = write(toy_recipe.with_name("child.yaml"), "extends: toy.yaml\nmodel: {encoder: {type: other, width: 3}}\n")
    assert load_recipe(child).model.encoder.options == {"width": 3}


def test_extends_goes_over_several_files(toy_recipe):
    (toy_recipe.parent / "bases").mkdir()
    toy_recipe.rename(toy_recipe.parent / "bases" / "low.yaml")
    write(toy_recipe.parent / "bases" / "middle.yaml", "extends: low.yaml\nseed: 1\nname: middle\n")
    top = write(toy_recipe.parent / "top.yaml", "extends: bases/middle.yaml\nname: top\n")
    recipe = load_recipe(top)
    assert (recipe.name, recipe.seed, recipe.stages["align"].steps) == ("top", 1, 10)


def test_a_circle_of_extends_is_named(toy_recipe):
    one = write(toy_recipe.with_name("one.yaml"), "name: a\nextends: two.yaml\n")
    write(toy_recipe.with_name("two.yaml"), "extends: one.yaml\n")
    [problem] = problems(one)
    assert re.fullmatch(r".*two.yaml:1: extends: the files go in a circle: .*one.yaml -> .*two.yaml -> .*one.yaml", problem)


@pytest.mark.parametrize(
    ("extends", "complaint"),
    [("tou.yaml", "there is no file 'tou.yaml'.*did you mean 'toy.yaml'"), ("[a]", "one recipe file"), ("", "one recipe file")],
)
def test_a_base_that_is_not_there(toy_recipe, extends, complaint):
    child = write(toy_recipe.with_name("child.yaml"), f"name: x\nextends: {extends}\n")
    [problem] = problems(child)
    assert problem.startswith(f"{child}:2: extends: ")
    assert re.search(complaint, problem)


def test_overrides(toy_recipe):
    recipe = load_recipe(
        toy_recipe,
        [
            "stages.align.train.encoder={lr: 2e-6}",
            "stages.align.train.connector=null",
            "description=what it is",
            "seed=1",
            "seed=2",
            "model.encoder.inner.depth=7",
        ],
    )
    assert list(recipe.stages["align"].train.components()) == ["encoder"]
    assert (recipe.description, recipe.seed) == ("what it is", 2)
    assert recipe.model.encoder.options["inner"] == {"depth": 7}


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_overrides_does_not_matter_where_a_type_changes(toy_recipe, order):
    overrides = ["model.encoder.width=5", "model.encoder.type=other"][::order]
    assert load_recipe(toy_recipe, overrides).model.encoder.options == {"width": 5}


def test_overrides_reach_into_a_list_of_encoders(toy_recipe):
    write(
        toy_recipe,
        toy_recipe.read_text().replace("{type: toy, checkpoint: a/b}", "[{type: toy, checkpoint: a}, {type: other}]"),
    )
    recipe = load_recipe(toy_recipe, ["model.encoder.1.width=3"])
    assert [part.options.get("width") for part in recipe.model.encoder] == [None, 3]
    assert problems(toy_recipe, "model.encoder.1.widht=3") == [
        "override model.encoder.1.widht: unknown key; did you mean 'width'?"
    ]


def test_wrong_overrides(toy_recipe):
    assert problems(toy_recipe, "seed", "a..b=1", "stages.aling.steps=3", "seed=[", "stages.align.train.connector.lrr=1") == [
        "override seed: an override is written key=value, with dots between keys",
        "override a..b=1: an override is written key=value, with dots between keys",
        "override stages.aling.steps: there is no stage 'aling'; did you mean 'align'?",
        "override seed: '[' is not a value; put text with special characters in quotes",
        "override stages.align.train.connector.lrr: unknown key; did you mean 'lr'?",
    ]


def test_unknown_parts(toy_recipe):
    found = problems(
        toy_recipe, "model.connector.type=toy_mpl", "model.splicer=toy_kernle", "evaluate={benchmark: {type: pope}}"
    )
    assert found[0].startswith("override model.connector.type: there is no connector 'toy_mpl'; did you mean 'toy_mlp'?")
    assert found[1] == (
        "override model.splicer: there is no splicer 'toy_kernle'; did you mean 'toy_kernel'? (built in: auto, reference)"
    )
    assert found[2].startswith("override evaluate.benchmark.type: there is no benchmark 'pope'")


@pytest.mark.parametrize(("kind", "name"), [("splicer", "toy_kernel"), ("loss", "toy_loss")])
def test_splicers_and_losses(toy_recipe, kind, name):
    for value in ("auto", "reference", name):
        recipe = load_recipe(toy_recipe, [f"model.{kind}={value}"])
        assert getattr(recipe.model, kind) == value
        parts = [(kind, name)] if value == name else []
        assert [(found, part.type) for _, found, part in parts_of(recipe) if found == kind] == parts
    assert getattr(load_recipe(toy_recipe, [f"model.{kind}={{type: {name}}}"]).model, kind).type == name
    assert not [1 for _, found, _ in parts_of(load_recipe(toy_recipe, [f"model.{kind}={{type: reference}}"])) if found == kind]
    assert "unknown key" in problems(toy_recipe, f"model.{kind}={{type: {name}, fast: true}}")[0]
    assert problems(toy_recipe, f"model.{kind}=warp")[0].endswith("(built in: auto, reference)")


def test_options_that_cannot_be_checked_are_their_plugin_s_fault(toy_recipe, make_plugin):
    make_plugin(
        "odd",
        "from __future__ import annotations\nfrom llava_kit import Options, hookimpl\n"
        "class O(Options):\n    x: Nowhere = 1\n"
        "@hookimpl\ndef register_connectors(register):\n    register('odd', options=O, build=print)\n",
    )
    [problem] = problems(toy_recipe, "model.connector.type=odd")
    assert "model.connector: plugin odd (llava-kit-odd 1.0): its options cannot be checked" in problem


def test_the_written_recipe_reads_back_equal(toy_recipe, tmp_path):
    overrides = ["description='1e-4'", "model.template.type=toy_turns", "stages.align.clip_norm=null", "name='010'"]
    recipe = load_recipe(toy_recipe, overrides)
    again = load_recipe(write(tmp_path / "again.yaml", recipe_to_yaml(recipe)))
    assert again == recipe
    assert recipe_to_yaml(again) == recipe_to_yaml(recipe)


def test_by_name(toy_recipe):
    (toy_recipe.parent / "recipes").mkdir()
    toy_recipe.rename(toy_recipe.parent / "recipes" / "mine.yaml")
    assert load_recipe("mine").name == load_recipe("mine.yaml").name == "toy"
    with pytest.raises(RecipeError, match=r"there is no recipe 'mnie'.*did you mean 'mine'"):
        load_recipe("mnie")
    with pytest.raises(RecipeError, match=r"recipes/mime.yaml: there is no such recipe file; did you mean 'mine.yaml'"):
        load_recipe("recipes/mime.yaml")
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(toy_recipe.parent)


def test_parse_part(toy_recipe):
    registry = default_registry()
    entry, options = parse_part(Part(type="toy", checkpoint="x"), "encoder", registry)
    assert (entry.name, options.checkpoint, options.layer) == ("toy", "x", -2)
    with pytest.raises(RecipeError, match="encoder 'toy', layr: unknown key; did you mean 'layer'"):
        parse_part(Part(type="toy", checkpoint="x", layr=3), "encoder", registry)
    with pytest.raises(PluginError, match="did you mean 'toy'"):
        parse_part(Part(type="tyo"), "encoder", registry)
    with pytest.raises(RecipeError, match="unknown key; there is none"):
        parse_part(Part(type="toy_turns", a=3), "template", registry)


def test_parts_of(toy_recipe):
    recipe = load_recipe(toy_recipe, ["stages.align.data.template={type: toy_turns}"])
    assert [(".".join(map(str, path)), kind, part.type) for path, kind, part in parts_of(recipe)] == [
        ("model.encoder", "encoder", "toy"),
        ("model.connector", "connector", "toy_mlp"),
        ("model.language_model", "language_model", "toy_lm"),
        ("model.template", "template", "toy_turns"),
        ("stages.align.data.source", "source", "toy_data"),
        ("stages.align.data.template", "template", "toy_turns"),
    ]
