"""seat_rows and project_rows as operations of torch: registered rightly, refusing what does not fit, whole under FSDP2."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from llava_kit.model.vlm import VisionLanguageModel
from llava_kit.splice.reference import ReferenceSplicer
from llava_kit.testing import battery
from llava_kit_kernels.loss import TritonLoss
from llava_kit_kernels.ops.common import KernelInputError
from llava_kit_kernels.ops.project_rows import Projector, project_rows
from llava_kit_kernels.ops.seat_rows import Fixed, seat_rows
from llava_kit_kernels.splicer import TritonSplicer, _fixed

PLAN = {case.name: case for case in battery()}["packed"].plan
SEATS = PLAN.source.shape[0]
ROWS, TABLE, NEWLINE = PLAN.visual_rows.shape[0], (53, 12), (12,)


@pytest.fixture
def given(home):
    """Everything both operations take, on the device."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(home).requires_grad_()

    plan = PLAN.to(home)
    projector = Projector(draw(10, 8), draw(10), draw(12, 10), draw(12), "gelu")
    return plan, draw(ROWS, 8), projector, draw(ROWS, 12), draw(*TABLE), draw(*NEWLINE), _fixed(plan)


def test_project_rows_is_registered_rightly(given):
    plan, x, projector, _, table, newline, fixed = given
    arguments = (x, *projector, plan.visual_positions, table, newline, *fixed, SEATS, True)
    torch.library.opcheck(torch.ops.llava_kit.project_rows, arguments)
    bare = (x.detach(), projector.weight_1.detach(), None, projector.weight_2.detach(), None, "relu")
    torch.library.opcheck(
        torch.ops.llava_kit.project_rows, (*bare, plan.visual_positions, table.detach(), newline.detach(), *fixed, SEATS, False)
    )


def test_seat_rows_is_registered_rightly(given):
    plan, _, _, visual, table, newline, fixed = given
    some, rest = plan.visual_positions[:5], plan.visual_positions[5:]
    torch.library.opcheck(
        torch.ops.llava_kit.seat_rows,
        (visual[5:].detach().requires_grad_(), rest, visual[:5], some, table, newline, *fixed, SEATS),
    )
    torch.library.opcheck(
        torch.ops.llava_kit.seat_rows, (visual, plan.visual_positions, None, None, table, newline, *fixed, SEATS)
    )


def test_the_gradients_are_operations_too(given):
    plan, _, _, _, _, _, fixed = given
    grad = torch.randn(SEATS, 12, device=plan.source.device)
    torch.library.opcheck(torch.ops.llava_kit.embed_gradient, (grad, *fixed[2:6], 53, torch.float32))
    torch.library.opcheck(torch.ops.llava_kit.sum_rows, (grad, plan.newline_positions, torch.float32))
    before = torch.randn(SEATS, 10, device=grad.device)
    torch.library.opcheck(torch.ops.llava_kit.linear_dgelu, (grad, torch.randn(12, 10, device=grad.device), before, "gelu"))


def test_both_ways_give_the_same_rows(given):
    plan, x, projector, _, table, newline, fixed = given
    weight_1, bias_1, weight_2, bias_2, _ = projector
    ready = torch.nn.functional.gelu(x @ weight_1.T + bias_1) @ weight_2.T + bias_2
    fused = project_rows(x, projector, plan.visual_positions, table, newline, fixed, SEATS)
    seated = seat_rows(ready, plan.visual_positions, None, None, table, newline, fixed, SEATS)
    torch.testing.assert_close(fused, seated)
    # All seats at once in two lists: the second is what blends are given.
    halves = seat_rows(ready[5:], plan.visual_positions[5:], ready[:5], plan.visual_positions[:5], table, newline, fixed, SEATS)
    assert torch.equal(seated, halves)


def test_what_does_not_fit_is_refused(given):
    plan, x, projector, visual, table, newline, fixed = given
    seats = plan.visual_positions

    def other(**changes: Tensor) -> Fixed:
        return fixed._replace(**changes)

    for call, message in [
        (lambda: project_rows(x[1:], projector, seats, table, newline, fixed, SEATS), rf"rows do not agree: {ROWS - 1} in `x`"),
        (lambda: project_rows(x[:, 1:], projector, seats, table, newline, fixed, SEATS), "encoder's widths do not agree: 7 in"),
        (
            lambda: project_rows(x, projector._replace(weight_2=projector.weight_1), seats, table, newline, fixed, SEATS),
            "hidden",
        ),
        (
            lambda: project_rows(x, projector._replace(activation="elu"), seats, table, newline, fixed, SEATS),
            "no activation 'elu'",
        ),
        (lambda: project_rows(x.double(), projector, seats, table, newline, fixed, SEATS), "float64"),
        (lambda: seat_rows(visual[1:], seats, None, None, table, newline, fixed, SEATS), "visual rows do not agree"),
        (lambda: seat_rows(visual, seats, visual, seats[1:], table, newline, fixed, SEATS), "blended rows do not agree"),
        (lambda: seat_rows(visual, seats, None, None, table[:, 1:], newline, fixed, SEATS), "widths do not agree"),
        (lambda: seat_rows(visual, seats, None, None, table, newline[1:], fixed, SEATS), "11 in `newline`"),
        (lambda: seat_rows(visual, seats, None, None, table, None, fixed, SEATS), "newline seats and no newline row"),
        (lambda: seat_rows(visual, seats, None, None, table, newline, fixed, 2**31), "2,147,483,648 rows"),
        (
            lambda: seat_rows(visual, seats, None, None, table, newline, other(ids=fixed.ids[1:]), SEATS),
            "text rows do not agree",
        ),
        (
            lambda: seat_rows(visual, seats, None, None, table, newline, other(tokens=fixed.tokens[1:]), SEATS),
            "tokens do not agree",
        ),
    ]:
        with pytest.raises(KernelInputError, match=message):
            call()


def test_several_devices_are_refused(given):
    plan, _, _, visual, table, newline, fixed = given
    with torch.no_grad(), pytest.raises(KernelInputError, match="several devices"):
        seat_rows(visual, plan.visual_positions.to("meta"), None, None, table, newline, fixed, SEATS)


def test_parameters_sharded_by_fsdp_are_whole_inside(tmp_path, home):
    """Connector, newline and embedding belong to the root unit, whose parameters are gathered for the model's forward pass."""
    import numpy as np
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from llava_kit.core.tiles import Grid, TileGrid
    from llava_kit.splice.build import IMAGE, Seating, build_plan
    from llava_kit_connectors.rowwise import Mlp
    from llava_kit_shapes import ShapesLMOptions, ShapesVitOptions, build_lm, build_vit

    torch.manual_seed(0)
    encoder = build_vit(ShapesVitOptions(image_size=32, patch_size=16, width=16, depth=1, heads=2), weights=True)
    language_model = build_lm(ShapesLMOptions(width=16, depth=1, heads=2), weights=True)
    parts = (encoder, Mlp(16, 16), language_model)
    plain = VisionLanguageModel(*parts, ReferenceSplicer(), newline=True).to(home)
    ids = np.array([5, IMAGE, 7, 8, 9, 5])
    grid = TileGrid((90, 40), Grid(1, 2), merge="spatial_unpad")
    seatings = [[Seating(ids, np.arange(6) > 2, (grid,), "one")], [Seating(ids[2:], np.arange(4) > 1, (), "two")]]
    built = build_plan(seatings, side=Grid(2, 2), vocab=language_model.embedding.shape[0])
    tiles = torch.randint(0, 255, (3, 3, 32, 32), dtype=torch.uint8, device=home)
    inputs = [tiles, *(value.to(home) for value in built)]

    sharded = copy.deepcopy(plain)
    sharded.splicer, sharded.loss = TritonSplicer(), TritonLoss()
    backend = "nccl" if home == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mesh = init_device_mesh(home, (1,))
        for block in (*sharded.encoder.blocks(), *sharded.language_model.blocks()):
            fully_shard(block, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        losses = []
        for model in (plain, sharded):
            loss = model(*inputs)
            loss.backward()
            losses.append(loss.detach())
        torch.testing.assert_close(losses[1], losses[0])
        expected = dict(plain.named_parameters())
        for name, parameter in sharded.named_parameters():
            gradient = parameter.grad.full_tensor()
            torch.testing.assert_close(gradient, expected[name].grad, rtol=1e-4, atol=1e-5, msg=name)
    finally:
        dist.destroy_process_group()
