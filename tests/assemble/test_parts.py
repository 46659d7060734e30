"""Recipe or ready parts -> a model that fits together; what does not fit is told before anything trains."""

import numpy as np
import pytest
import torch

import llava_kit
from llava_kit.assemble.parts import choose
from llava_kit.data.collate import collate
from llava_kit.errors import LlavaKitError, PluginError, RecipeError
from llava_kit.model.side_by_side import SideBySideEncoder


def test_from_a_model_block(toy):
    assembly = llava_kit.assemble(toy, seed=1)
    assert assembly.side == (2, 2)
    assert assembly.model.newline is not None, "unpad ends lines with a newline row"
    assert assembly.recipe_model is not None


def test_a_clip_goes_all_the_way(toy):
    toy["tiling"] = {"mode": "pad", "video": {"frames": 3, "pool": "max", "newline": "frame"}}
    assembly = llava_kit.assemble(toy, seed=1)
    assert assembly.model.newline is not None
    frames = tuple(llava_kit.ImagePixels(lambda c=c: np.full((20, 30, 3), c, np.uint8), (30, 20)) for c in range(0, 200, 40))
    reply = assembly.chat("What is it?", [llava_kit.Clip(frames)], max_new_tokens=3)
    assert isinstance(reply, str)
    message = llava_kit.Message("user", (llava_kit.ImageSlot(0), "\nWhat?"))
    conversation = llava_kit.Conversation((message, llava_kit.Message("assistant", ("A cat.",))))
    example = assembly.examples().make(llava_kit.Sample("s", conversation, (llava_kit.Clip(frames),)))
    batch = collate([example], side=assembly.side, vocab=assembly.model.language_model.embedding.shape[0])
    loss = assembly.model(batch.tiles, batch.plan, batch.position_ids, batch.target_positions, batch.target_ids)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in assembly.model.connector.named_parameters()}
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values())


def test_pooling_frames_needs_rows_with_a_place(toy):
    toy["tiling"] = {"mode": "pad", "video": {}}
    toy["connector"] = {"type": "perceiver", "num_queries": 4}
    with pytest.raises(RecipeError, match=r"tiling\.video: pooling the frames of a clip needs visual rows"):
        llava_kit.assemble(toy)


def test_a_seed_decides_every_fresh_weight(toy):
    states = [llava_kit.assemble(toy, seed=seed).model.state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_from_ready_parts():
    encoder = llava_kit.build("encoder", "shapes_vit", width=16, depth=1, heads=2)
    language_model = llava_kit.build("language_model", "shapes_lm", width=24, depth=1)
    assembly = llava_kit.assemble(
        encoder=encoder, connector={"type": "linear"}, language_model=language_model, template="vicuna_v1"
    )
    assert assembly.model.encoder is encoder
    assert assembly.model.newline is None
    assert assembly.recipe_model is None


def test_encoders_side_by_side(toy):
    toy["encoder"] = [toy["encoder"], {**toy["encoder"], "width": 8}]
    encoder = llava_kit.assemble(toy).model.encoder
    assert isinstance(encoder, SideBySideEncoder)
    assert encoder.spec.width == 24


def test_what_is_missing_is_named():
    with pytest.raises(LlavaKitError, match="missing encoder, connector, language_model, template"):
        llava_kit.assemble()


def test_a_recipe_and_parts_together_are_refused(toy):
    with pytest.raises(LlavaKitError, match="one or the other"):
        llava_kit.assemble(toy, template="vicuna_v1")


def test_rows_without_a_place_cannot_be_unpadded(toy):
    toy["connector"] = {"type": "perceiver", "num_queries": 4}
    with pytest.raises(RecipeError, match="anyres"):
        llava_kit.assemble(toy)


def test_an_unknown_part_names_the_nearest():
    with pytest.raises(PluginError, match="shapes_vit"):
        llava_kit.build("encoder", "shape_vit")


def test_a_wrong_option_names_the_nearest():
    with pytest.raises(LlavaKitError, match="depth"):
        llava_kit.build("encoder", "shapes_vit", dept=2)


@pytest.mark.parametrize(("kind", "reference"), [("splicer", "ReferenceSplicer"), ("loss", "ReferenceLoss")])
def test_splicers_and_losses_by_name(toy, kind, reference):
    for choice in ("auto", "reference", {"type": "reference"}):
        assert type(getattr(llava_kit.assemble({**toy, kind: choice}).model, kind)).__name__ == reference
    with pytest.raises(PluginError, match="warp"):
        llava_kit.assemble({**toy, kind: "warp"})


@pytest.mark.parametrize(("kind", "hook"), [("splicer", "register_splicers"), ("loss", "register_losses")])
def test_auto_takes_what_runs_here_and_was_measured_to_be_faster(toy, make_plugin, kind, hook):
    make_plugin(
        "fast",
        "from llava_kit import hookimpl\n"
        f"@hookimpl\ndef {hook}(register):\n"
        "    register('absent', build=lambda options: 'absent', unavailable=lambda: 'no GPU', measured=lambda: '9x')\n"
        "    register('hopeful', build=lambda options: 'hopeful')\n"
        "    register('quick', build=lambda options: 'quick', measured=lambda: '2x')\n",
    )
    assert choose(kind, "auto") == "quick"
    assert choose(kind, "hopeful") == "hopeful"
    assert getattr(llava_kit.assemble(toy).model, kind) == "quick"
    with pytest.raises(PluginError, match=f"{kind} 'absent' cannot run here: no GPU; use 'auto' or 'reference'"):
        choose(kind, "absent")
