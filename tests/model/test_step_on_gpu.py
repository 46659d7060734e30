"""A training step on a GPU: nothing waits for the device, and a recorded step is the step."""

from __future__ import annotations

import pytest
import torch

from llava_kit.core.splice import SplicePlan, _map_tensors
from llava_kit.data.collate import Batch
from llava_kit.splice.build import Built
from llava_kit.splice.fixed import fill_up

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

KINDS = {"packed": {}, "blended": {"blended": True}, "text_only": {"pictures": False}}


def to_gpu(tiles, built: Built):
    pinned = Batch(tiles, *built, sample_ids=(), num_tokens=1, num_targets=1).pin_memory()
    there = pinned.to("cuda", non_blocking=True)
    return there.tiles, there.plan, there.position_ids, there.target_positions, there.target_ids


def tensors_of(plan: SplicePlan) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    _map_tensors(plan, lambda tensor: found.append(tensor) or tensor)
    return found


@pytest.mark.parametrize(("filled", "length"), [(False, 96), (True, 96), (True, 2048)])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_waits_for_the_device(real_model, random_batch, kind, filled, length):
    """The long rows are filled up to 4,096 token ids: from 3,072 on torch sorts them for the gradient of the embedding."""
    model = real_model("mistral").to("cuda", torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    batches = [random_batch(seed, length=length, **KINDS[kind]) for seed in range(3)]
    for number, (tiles, built) in enumerate(batches):
        built = fill_up(built, newlines=True) if filled else built
        # The first steps make states, plans and workspaces.
        torch.cuda.set_sync_debug_mode("error" if number else "default")
        try:
            model(*to_gpu(tiles, built)).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", KINDS)
def test_a_recorded_step_is_the_step(real_model, random_batch, kind):
    """One graph, recorded with one batch and replayed with others of the same shapes."""
    model = real_model("mistral").to("cuda", torch.bfloat16)
    batches = []
    for seed in range(3):
        tiles, built = random_batch(seed, **KINDS[kind])
        batches.append(to_gpu(tiles, fill_up(built, newlines=True)))
    expected = []
    for batch in batches:
        model.zero_grad(set_to_none=True)
        loss = model(*batch)
        loss.backward()
        expected.append((loss.detach().clone(), {n: p.grad.clone() for n, p in model.named_parameters()}))
    # Its graph would keep the nodes that gather gradients, which belong to the stream they were made on: none may be recorded.
    del loss
    model.zero_grad(set_to_none=True)

    tiles, plan, *others = batches[0]
    static = (tiles.clone(), _map_tensors(plan, torch.clone), *(tensor.clone() for tensor in others))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            model.zero_grad(set_to_none=True)
            model(*static).backward()
    torch.cuda.current_stream().wait_stream(side)
    model.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = model(*static)
        loss.backward()

    for (tiles, plan, *others), (wanted, gradients) in zip(batches, expected, strict=True):
        fresh = [tiles, *tensors_of(plan), *others]
        for held, new in zip([static[0], *tensors_of(static[1]), *static[2:]], fresh, strict=True):
            assert held.shape == new.shape
            held.copy_(new)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()
        graph.replay()
        torch.testing.assert_close(loss, wanted, rtol=1e-3, atol=1e-3)
        for name, parameter in model.named_parameters():
            scale = gradients[name].abs().max().float()
            difference = (parameter.grad.float() - gradients[name].float()).abs().max()
            assert difference <= 2e-2 * scale, name
