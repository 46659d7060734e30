"""The formulas: operations against torch's own counter, memory against sums by hand."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llava_kit.assemble.parts import assemble
from llava_kit.assemble.plan_cost import SampleShape, flops, memory, passes
from llava_kit.assemble.plan_size import ComponentSize, ModelSize, measure
from llava_kit.core.tiles import Grid
from llava_kit.recipe.schema import COMPONENTS, Stage


def part(name, parameters, **changes):
    values = {
        "stored_bytes": 4 * parameters,
        "num_blocks": 0,
        "in_blocks": 0,
        "largest_block": 0,
        "matrices": 0,
        "attention": 0,
        "kept_bytes": 0.0,
        "measured": True,
    }
    return ComponentSize(name=name, parameters=parameters, **{**values, **changes})


def sizes(**changes):
    """An encoder of 1,000 parameters, a connector of 100, a language model of 10,000 in ten blocks, without other costs."""
    parts = {
        "encoder": part("encoder", 1_000),
        "connector": part("connector", 100),
        "language_model": part("language_model", 10_000, num_blocks=10, in_blocks=8_000, largest_block=800, matrices=7_000),
    }
    values = {"components": parts, "patches": 4, "encoder_width": 8, "side": Grid(2, 2), "rowwise": True}
    return ModelSize(**{**values, "width": 8, "vocab": 125, "embedding": 1_000, "head": 1_000, **changes})


def stage(trained, **changes):
    return Stage.model_validate(
        {
            "train": {name: {"lr": 1e-3} for name in trained},
            "data": {"source": {"type": "shapes"}},
            "steps": 1,
            "global_batch_size": 8,
            "clip_norm": None,
            **changes,
        }
    )


SAMPLE = SampleShape(tiles=2, visual_rows=6, positions=20, targets=5, positions_squared=400)


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (("connector",), (1, 3, 2)),
        (("connector", "language_model"), (1, 3, 3)),
        (("encoder", "connector", "language_model"), (3, 3, 3)),
        (("language_model",), (1, 1, 3)),
        (("encoder",), (3, 2, 2)),
    ],
)
def test_passes(trained, expected):
    assert tuple(passes(trained)[name] for name in COMPONENTS) == expected


def test_matrices_cost_2_4_or_6_operations_a_parameter_and_row():
    cost = flops(sizes(), SAMPLE, {"connector"}, recompute=False)
    assert cost.encoder == 2 * 1_000 * 2 * 4
    assert cost.connector == 6 * 100 * 6
    assert cost.language_model == 4 * 8_000 * 20
    assert cost.head == 4 * 125 * 8 * 5
    assert cost.total == cost.executed
    assert flops(sizes(rowwise=False), SAMPLE, {"connector"}, recompute=False).connector == 6 * 100 * 2 * 4


def test_attention_goes_back_at_twice_its_price_even_through_frozen_parts():
    parts = sizes().components
    attending = {
        **parts,
        "encoder": dataclasses.replace(parts["encoder"], attention=50),
        "language_model": dataclasses.replace(parts["language_model"], attention=70),
    }
    bare = flops(sizes(), SAMPLE, {"connector"}, recompute=False)
    cost = flops(sizes(components=attending), SAMPLE, {"connector"}, recompute=False)
    assert cost.encoder - bare.encoder == 4 * 50 * 4 * 4 * 2
    assert cost.language_model - bare.language_model == 3 * 2 * 70 * 400


def test_recompute_is_one_more_forward_pass_of_the_blocks_gradients_go_through():
    cost = flops(sizes(), SAMPLE, {"connector"}, recompute=True)
    assert cost.recomputed == 2 * 8_000 * 20
    cost = flops(sizes(), SAMPLE, {"encoder", "language_model"}, recompute=True)
    assert cost.recomputed == 2 * 8_000 * 20 + 2 * 1_000 * 8
    assert cost.executed == cost.total + cost.recomputed


@pytest.mark.parametrize("trained", [("connector",), ("connector", "language_model"), COMPONENTS])
def test_operations_of_the_language_model_are_those_torch_counts(toy, trained):
    """Wide and short, so that attention, which torch counts without causality, is a percent."""
    toy["language_model"].update(width=256, depth=3, heads=4)
    length = 16
    with torch.device("meta"):
        assembly = assemble(toy, weights=False)
        size = measure(assembly)
        language_model = assembly.model.language_model.requires_grad_("language_model" in trained)
        with FlopCounterMode(display=False) as counter:
            rows = torch.empty(1, length, 256, requires_grad=True)
            hidden = language_model(rows, torch.arange(length).unsqueeze(0))
            language_model.logits(hidden[:, :5]).sum().backward()
    sample = SampleShape(tiles=1, visual_rows=4, positions=length, targets=5, positions_squared=length**2)
    cost = flops(size, sample, trained, recompute=False)
    assert cost.language_model + cost.head == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_operations_of_the_encoder_are_those_torch_counts(toy):
    toy["encoder"].update(image_size=64, width=256, depth=3, heads=4)
    toy["tiling"] = {"mode": "pad"}
    with torch.device("meta"):
        assembly = assemble(toy, weights=False)
        size = measure(assembly)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            assembly.model.encoder(torch.empty(1, 3, 64, 64, dtype=torch.uint8))
    sample = SampleShape(tiles=1, visual_rows=16, positions=20, targets=5, positions_squared=400)
    assert flops(size, sample, {"connector"}, recompute=False).encoder == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_states_are_sixteen_bytes_a_trained_parameter_and_four_a_frozen_one():
    held = memory(sizes(), stage(["language_model"]), 1, 0, SAMPLE)
    assert held.parameters == 4 * 11_100
    assert held.gradients == 4 * 10_000
    assert held.optimizer == 8 * 10_000
    assert held.working_copies == held.activations == held.logits == 0
    assert held.total == 4 * 1_100 + 16 * 10_000


def test_states_are_shared_evenly_and_blocks_are_gathered():
    held = memory(sizes(), stage(["language_model"], precision="bfloat16"), 4, 0, SAMPLE)
    assert held.parameters + held.gradients + held.optimizer == (4 * 1_100 + 16 * 10_000) / 4
    outside = 1_000 + 100 + 2_000
    assert held.working_copies == 2 * (outside + 2 * 800 + 2_000 + 800)


def test_half_precision_on_one_device_copies_what_trains():
    one = memory(sizes(), stage(["connector"], precision="bfloat16", parallel={"recompute": True}), 1, 0, SAMPLE)
    assert one.working_copies == 2 * 100
    kept = memory(sizes(), stage(["connector"], precision="bfloat16"), 1, 0, SAMPLE)
    assert kept.working_copies == 2 * (100 + 10_000)


def test_muon_keeps_one_moment_of_the_matrices_of_blocks():
    held = memory(sizes(), stage(["language_model"], optimizer={"type": "muon"}), 1, 0, SAMPLE)
    assert held.optimizer == 4 * (2 * 10_000 - 7_000)


def test_recompute_keeps_the_inputs_of_blocks_and_one_block():
    parts = sizes().components
    keeping = sizes(components={**parts, "language_model": dataclasses.replace(parts["language_model"], kept_bytes=1_000.0)})
    rows = 2 * 3 * 20 * 8 * 4  # the input rows and the hidden states, 3 samples of 20 positions of width 8 in float32
    whole = memory(keeping, stage(["language_model"]), 1, 3, SAMPLE)
    assert whole.activations == rows + 3 * 20 * 1_000 * 2  # float32: twice what was measured in bfloat16
    less = memory(keeping, stage(["language_model"], parallel={"recompute": True}), 1, 3, SAMPLE)
    assert less.activations == rows + 10 * (3 * 20 * 8 * 4) + 3 * 20 * 100 * 2


def test_a_frozen_encoder_keeps_one_block_in_the_air():
    parts = sizes().components
    encoder = dataclasses.replace(parts["encoder"], num_blocks=4, kept_bytes=400.0)
    keeping = sizes(components={**parts, "encoder": encoder})
    rows = 2 * 20 * 8 * 4
    frozen = memory(keeping, stage(["connector"]), 1, 1, SAMPLE)
    assert frozen.activations == rows + 2 * 100 * 2
    trained = memory(keeping, stage(["encoder"]), 1, 1, SAMPLE)
    assert trained.activations == rows + 2 * 400 * 2


def test_logits_are_those_of_supervised_rows_and_never_more_than_a_chunk():
    assert memory(sizes(), stage(["connector"]), 1, 3, SAMPLE).logits == 15 * 125 * 16
    many = dataclasses.replace(SAMPLE, targets=1_000_000)
    assert memory(sizes(), stage(["connector"]), 1, 3, many).logits == pytest.approx((1 << 25) * 16, rel=1e-4)
