"""The recipes of the LLaVA line hold the published numbers, and our own code makes of them the published runs."""

import pytest

from llava_kit.assemble.parts import assemble
from llava_kit.data.order import DataOrder
from llava_kit.recipe.schema import COMPONENTS
from llava_kit.train.optim import Optimizers, num_warmup_steps, rate, set_trainable

V1 = ("llava_v1_7b", "llava_v1_13b", "llava_v1_scienceqa_13b")
V1_5 = ("llava_v1_5_7b", "llava_v1_5_13b")
NEXT = ("llava_next_vicuna_7b", "llava_next_vicuna_13b", "llava_next_mistral_7b", "llava_next_yi_34b")
ALL = (*V1, *V1_5, *NEXT)

LANGUAGE_MODELS = {
    "llava_v1_7b": ("lmsys/vicuna-7b-v1.3", "v1"),
    "llava_v1_13b": ("lmsys/vicuna-13b-v1.3", "v1"),
    "llava_v1_scienceqa_13b": ("lmsys/vicuna-13b-v1.3", "v1"),
    "llava_v1_5_7b": ("lmsys/vicuna-7b-v1.5", "v1"),
    "llava_v1_5_13b": ("lmsys/vicuna-13b-v1.5", "v1"),
    "llava_next_vicuna_7b": ("lmsys/vicuna-7b-v1.5", "v1"),
    "llava_next_vicuna_13b": ("lmsys/vicuna-13b-v1.5", "v1"),
    "llava_next_mistral_7b": ("mistralai/Mistral-7B-Instruct-v0.2", "mistral_instruct"),
    "llava_next_yi_34b": ("NousResearch/Nous-Hermes-2-Yi-34B", "chatml_direct"),
}

# samples, epochs, global batch, steps; the steps of v1.5 are those of its published logs, the others follow from the rest
ALIGN = {
    **dict.fromkeys(("llava_v1_7b", "llava_v1_13b"), (595_375, 1, 128, 4_652)),
    "llava_v1_scienceqa_13b": (558_128, 1, 128, 4_361),
    **dict.fromkeys((*V1_5, *NEXT), (558_128, 1, 256, 2_181)),
}
INSTRUCT = {
    **dict.fromkeys(("llava_v1_7b", "llava_v1_13b"), (157_712, 3, 32, 14_787)),
    "llava_v1_scienceqa_13b": (12_726, 12, 128, 1_200),
    **dict.fromkeys(V1_5, (665_298, 1, 128, 5_198)),
    **dict.fromkeys(NEXT, (779_289, 1, 128, 6_089)),
}

CANVASES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


def test_every_recipe_of_the_line_is_here(recipes_folder):
    assert {path.stem for path in recipes_folder.glob("llava_*.yaml")} == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_begins_with_its_command_and_its_sources(name, recipes_folder):
    text = (recipes_folder / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.splitlines()[0] == f"# llava-kit train {name}"
    assert "Numbers: see bases/" in text or "Where the numbers come from" in text
    if name in NEXT:
        assert "Not published" in text


@pytest.mark.parametrize("name", ALL)
def test_parts(name, published):
    recipe = published(name)
    model = recipe.model
    size = "" if name in V1 else "-336"
    assert recipe.name == name.replace("v1_5", "v1.5").replace("_", "-")
    assert model.encoder.type == "clip"
    assert model.encoder.options["checkpoint"] == f"openai/clip-vit-large-patch14{size}"
    assert model.encoder.options["feature_layer"] == -2
    assert model.connector.type == ("linear" if name in V1 else "mlp")
    assert name in V1 or model.connector.options["depth"] == 2
    assert model.language_model.options["checkpoint"] == LANGUAGE_MODELS[name][0]
    assert model.language_model.options["dtype"] == "float32"
    assert model.template.type == LANGUAGE_MODELS[name][1]
    assert list(recipe.stages) == ["align", "instruct"]
    assert recipe.stages["align"].data.template.type == "plain"
    assert recipe.stages["instruct"].data.template is None


@pytest.mark.parametrize("name", ALL)
def test_pictures_and_lengths(name, published):
    recipe = published(name)
    align, instruct = recipe.stages["align"].data, recipe.stages["instruct"].data
    assert (align.tiling or recipe.model.tiling).mode == "square"
    assert instruct.tiling is None
    tiling = recipe.model.tiling
    assert tiling.mode == ("square" if name in V1 else "pad" if name in V1_5 else "anyres")
    if name in NEXT:
        assert tiling.pinpoints == CANVASES
        assert tiling.merge == "spatial_unpad"
        assert tiling.rule == "llava"
    assert (align.max_length, instruct.max_length) == (2048, 4096 if name in NEXT else 2048)


@pytest.mark.parametrize(("stage", "table"), [("align", ALIGN), ("instruct", INSTRUCT)])
@pytest.mark.parametrize("name", ALL)
def test_steps(name, stage, table, published):
    recipe = published(name)
    block = recipe.stages[stage]
    samples, epochs, batch, steps = table[name]
    assert (block.data.samples, block.epochs, block.global_batch_size, block.steps) == (samples, epochs, batch, None)
    order = DataOrder(samples, batch, recipe.seed, block.epochs, block.steps)
    assert order.num_steps == steps
    assert order.num_seen(steps) == samples * epochs
    # What eight devices take in one step is a whole number of micro-batches.
    assert batch % (8 * min(block.micro_batch_size, batch // 8)) == 0
    assert not block.data.pack


@pytest.mark.parametrize("name", ALL)
def test_rates(name, published):
    stages = published(name).stages
    align = {"llava_v1": 2e-3}.get(name[:8] if name in V1 else "", 1e-3)
    instruct = {"connector": 2e-5, "language_model": 2e-5}
    if name in NEXT:
        instruct["encoder"] = 2e-6
    assert {part: training.lr for part, training in stages["align"].train.components().items()} == {"connector": align}
    assert {part: training.lr for part, training in stages["instruct"].train.components().items()} == instruct
    for stage in stages.values():
        assert all(training.weight_decay is None for training in stage.train.components().values())


@pytest.mark.parametrize("name", ALL)
def test_optimizer_and_clipping(name, published):
    for stage in published(name).stages.values():
        optimizer = stage.optimizer
        assert (optimizer.type, optimizer.betas, optimizer.eps, optimizer.weight_decay) == ("adamw", (0.9, 0.999), 1e-8, 0.0)
        # The DeepSpeed files of v1 and v1.5 ask for no clipping, whatever max_grad_norm says; that of NeXT does.
        assert stage.clip_norm == (1.0 if name in NEXT else None)
        assert stage.precision == "bfloat16"
        assert stage.parallel.recompute
        assert stage.parallel.shard == 1


@pytest.mark.parametrize("name", ALL)
def test_schedule(name, published):
    for stage_name, table in (("align", ALIGN), ("instruct", INSTRUCT)):
        schedule, steps = published(name).stages[stage_name].schedule, table[name][3]
        warmup = num_warmup_steps(schedule, steps)
        assert 0.03 * steps <= warmup < 0.03 * steps + 1
        middle = warmup + (steps - warmup) // 2
        assert rate(schedule, 0, steps) == 0
        assert rate(schedule, warmup, steps) == 1
        assert rate(schedule, middle, steps) == pytest.approx(0.5, abs=1e-3)
        assert rate(schedule, steps, steps) == 0
        assert 0 < rate(schedule, steps - 1, steps) < 1e-5


def test_warmup_of_the_published_runs(published):
    stages = published("llava_v1_5_7b").stages
    assert num_warmup_steps(stages["align"].schedule, 2_181) == 66
    assert num_warmup_steps(stages["instruct"].schedule, 5_198) == 156


@pytest.mark.parametrize("name", ["llava_v1_7b", "llava_v1_5_7b", "llava_next_vicuna_7b"])
def test_what_is_stepped(name, published):
    """The stages' settings on a toy model: what the optimizer really holds, at which rates."""
    recipe = published(name)
    tiling = recipe.model.tiling
    if tiling.mode == "anyres":
        tiling = {"mode": "anyres", "pinpoints": [[32, 64], [64, 32]]}
    toy = {
        "encoder": {"type": "shapes_vit", "image_size": 32, "patch_size": 16, "width": 16, "depth": 1, "heads": 2},
        "connector": recipe.model.connector,
        "language_model": {"type": "shapes_lm", "width": 16, "depth": 1, "heads": 2},
        "template": recipe.model.template,
        "tiling": tiling,
    }
    model = assemble(toy).model
    for stage in recipe.stages.values():
        wanted = stage.train.components()
        set_trainable(model, wanted)
        optimizers = Optimizers(model, wanted, stage.optimizer)
        for row in optimizers.describe():
            component = row["component"]
            assert row["trained"] == (row["total"] if component in wanted else 0)
            assert row["lr"] == (wanted[component].lr if component in wanted else None)
        optimizers.set_rate(0.5)
        assert optimizers.rates() == pytest.approx({part: training.lr / 2 for part, training in wanted.items()})
        for component in COMPONENTS:
            parameters = model.component_parameters(component)
            assert all(p.requires_grad == (component in wanted) for p in parameters.values())
    assert ("newline" in model.component_parameters("connector")) == (name in NEXT)
