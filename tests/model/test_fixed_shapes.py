"""Batches of fixed shapes: the same losses and gradients, and a step that is compiled whole and once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from llava_kit.core.loss import IGNORE
from llava_kit.core.splice import _map_tensors
from llava_kit.recipe.schema import Parallel
from llava_kit.splice.fixed import fill_up
from llava_kit.train.parallel import prepare, restore

KINDS = {"packed": {}, "blended": {"blended": True}, "text_only": {"pictures": False}}


def run(model, tiles: Tensor, built, step=None) -> dict[str, Tensor]:
    model.zero_grad()
    loss = (model if step is None else step)(tiles, *built)
    loss.backward()
    return {"loss": loss.detach(), **{name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}}


@pytest.mark.parametrize("decoder", ["llama", "mistral"])
@pytest.mark.parametrize("kind", KINDS)
def test_same_loss_and_gradients(real_model, random_batch, kind, decoder):
    model = real_model(decoder)
    tiles, built = random_batch(3, **KINDS[kind])
    filled = fill_up(built, newlines=True)
    assert (filled.target_ids == IGNORE).sum() == len(filled.target_ids) - len(built.target_ids) > 0
    plain, found = run(model, tiles, built), run(model, tiles, filled)
    assert plain.keys() == found.keys()
    for name, expected in plain.items():
        torch.testing.assert_close(found[name], expected, atol=2e-5, rtol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
    if kind == "text_only":  # no product is taken of more rows than before, but the head's
        assert torch.equal(plain["loss"], found["loss"])


@pytest.mark.parametrize(("kind", "backend", "recompute"), [("packed", "eager", False), ("blended", "aot_eager", True)])
def test_compiled_whole_and_once(real_model, random_batch, kind, backend, recompute):
    """Three batches, forward and backward, one graph; also where a mask takes the part of the kernel for packed sequences."""
    torch._dynamo.reset()
    model = real_model("mistral")
    counter = CompileCounterWithBackend(backend)
    batches = [fill_up(random_batch(seed, **KINDS[kind])[1], newlines=True) for seed in range(3)]
    tiles, _ = random_batch(0, **KINDS[kind])
    expected = [run(model, tiles, batch) for batch in batches]
    prepare(model, Parallel(recompute=recompute), ("connector", "language_model"))
    step = torch.compile(model, fullgraph=True, backend=counter)
    for batch, wanted in zip(batches, expected, strict=True):
        found = run(model, tiles, batch, step)
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, atol=2e-5, rtol=2e-5)
    assert counter.frame_count == 1


def test_compile_step_of_the_recipe(monkeypatch, real_model):
    model = real_model()
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **keys: asked.append((module, keys)))
    changed = prepare(model, Parallel(compile="step", fixed_shapes=True), ("connector",))
    assert asked == [(model, {"fullgraph": True})]
    assert changed[-1] is model
    restore(changed)
    asked.clear()
    prepare(model, Parallel(compile="blocks"), ("connector",))
    assert len(asked) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_are_the_same(random_batch, kind):
    found = set()
    for seed in range(20):
        filled = fill_up(random_batch(seed, **KINDS[kind])[1], newlines=True)
        tensors: list[Tensor] = []
        _map_tensors(filled.plan, lambda tensor, tensors=tensors: tensors.append(tensor) or tensor)
        sequences, reduces = filled.plan.sequences, tuple(blend.reduce for blend in filled.plan.blends)
        shapes = tuple(tensor.shape for tensor in (*tensors, *filled[1:]))
        found.add((shapes, sequences.longest, sequences.packed, reduces, filled.plan.num_visual))
    assert len(found) == 1
