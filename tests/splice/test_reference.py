"""The plain splicer: right by the public battery, few operations, no host read, one graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from llava_kit.core.connector import Connector
from llava_kit.core.splice import SplicePlan, _map_tensors
from llava_kit.core.tiles import Grid, TileGrid
from llava_kit.errors import LlavaKitError
from llava_kit.splice.build import IMAGE, Seating, build_plan
from llava_kit.splice.reference import ReferenceSplicer
from llava_kit.testing import battery, check_splicer

VIEWS = {"view", "_unsafe_view", "expand", "alias", "detach", "t", "transpose", "slice", "unsqueeze", "select"}
CASES = {case.name: case for case in battery()}
SIDE = Grid(2, 2)


class Through(Connector):
    """Features as they are, counting the rows that it sees."""

    def __init__(self, rowwise: bool):
        super().__init__()
        self.rowwise = rowwise
        self.rows = 0

    def forward(self, features):
        self.rows = features.numel() // features.shape[-1]
        return features


class Operations(TorchDispatchMode):
    """The names of the tensor operations that do work; views launch nothing."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        if name not in VIEWS:
            self.names.append(name)
        return operation(*args, **(kwargs or {}))


def plan_of(batch: int, *grids: TileGrid, num_tiles: int | None = None) -> SplicePlan:
    ids = np.insert(np.arange(5 + len(grids) * 2), 3, [IMAGE] * len(grids))
    rows = [[Seating(ids, np.zeros(len(ids), bool), grids, str(row))] for row in range(batch)]
    return build_plan(rows, side=SIDE, vocab=50, num_tiles=num_tiles).plan


def inputs(plan: SplicePlan, width: int = 8) -> tuple[torch.Tensor, nn.Parameter, nn.Parameter]:
    features = torch.randn(plan.num_visual // 4, 4, width, requires_grad=True)
    return features, nn.Parameter(torch.randn(50, width)), nn.Parameter(torch.randn(width))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_passes_its_own_battery(dtype):
    check_splicer(ReferenceSplicer(), dtype)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_passes_its_own_battery_on_a_gpu(dtype):
    check_splicer(ReferenceSplicer(), dtype, "cuda")


def test_operations_are_few_and_the_same_for_every_batch():
    unpadded = TileGrid((90, 40), Grid(2, 2), merge="spatial_unpad")
    plans = [plan_of(1, unpadded), plan_of(9, unpadded, TileGrid((5, 5))), plan_of(3, num_tiles=2)]
    seen = []
    for plan in plans:
        features, embedding, newline = inputs(plan)
        with Operations() as forward:
            rows = ReferenceSplicer()(plan, features, Through(rowwise=True), embedding, newline)
        with Operations() as backward:
            rows.backward(torch.ones_like(rows))
        seen.append((forward.names, backward.names))
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0][0]) <= 6
    assert not {"_local_scalar_dense", "nonzero", "item", "is_nonzero"} & {*seen[0][0], *seen[0][1]}


def test_blends_cost_a_few_operations_more_and_no_host_read():
    for name, most in (("shrunk", 14), ("clips", 18), ("blended", 18)):
        case = CASES[name]
        parts = case.parts(torch.float32, "cpu")
        rowwise = Through(rowwise=True)
        embedding = nn.Parameter(torch.randn(53, case.vision_width))
        with Operations() as forward:
            rows = ReferenceSplicer()(
                case.plan, parts.features, rowwise, embedding, nn.Parameter(torch.randn(case.vision_width))
            )
        with Operations() as backward:
            rows.sum().backward()
        assert len(forward.names) <= most, forward.names
        assert not {"_local_scalar_dense", "nonzero", "item", "is_nonzero"} & {*forward.names, *backward.names}
        assert rowwise.rows == len(case.plan.visual_rows) + sum(len(blend.rows) for blend in case.plan.blends)


@pytest.mark.parametrize("name", ["packed", "anyres_41_341", "halving", "text_only", "summary", "blended", "blended_halving"])
def test_is_one_graph_that_reads_no_value(name):
    """Fake tensors hold no values: whatever would read one from the device fails here."""
    case = CASES[name]
    with FakeTensorMode() as mode:
        plan = _map_tensors(case.plan, mode.from_tensor)
        features = torch.randn(case.num_tiles, case.patches.area, case.vision_width, requires_grad=True)
        connector = case.connector(case.vision_width, case.text_width)
        embedding, newline = torch.randn(53, case.text_width, requires_grad=True), nn.Parameter(torch.randn(case.text_width))
        rows = ReferenceSplicer()(plan, features, connector, embedding, newline)
        rows.sum().backward()
        assert rows.shape == (*plan.shape, case.text_width)
        assert all(tensor.grad is not None for tensor in (features, embedding, newline, *connector.parameters()))


@pytest.mark.parametrize("name", ["packed", "halving", "blended"])
def test_compiles_whole_forward_and_backward(name):
    case = CASES[name]
    results = []
    for splicer in (ReferenceSplicer(), torch.compile(ReferenceSplicer().__call__, fullgraph=True, backend="aot_eager")):
        parts = case.parts(torch.float32, "cpu")
        rows = splicer(case.plan, parts.features, parts.connector, parts.embedding, parts.newline)
        rows.square().sum().backward()
        results.append([rows.detach(), *(tensor.grad for tensor in parts.trained.values())])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(eager, compiled)


def test_projects_only_the_rows_that_survive():
    plan = plan_of(2, TileGrid((90, 20), Grid(2, 2), merge="spatial_unpad"))
    features, embedding, newline = inputs(plan)
    connectors = Through(rowwise=True), Through(rowwise=False)
    rows = [ReferenceSplicer()(plan, features, connector, embedding, newline) for connector in connectors]
    assert torch.equal(*rows)
    assert connectors[1].rows == plan.num_visual
    assert connectors[0].rows == len(plan.visual_rows) < plan.num_visual


def test_tied_embedding_gets_both_gradients():
    """The embedding is the head too: what the head adds to its gradient must not replace what the text rows add."""
    plan = plan_of(1, TileGrid((5, 5)))
    features, embedding, newline = inputs(plan)
    rows = ReferenceSplicer()(plan, features, Through(rowwise=True), embedding, newline)
    (rows.detach() @ embedding.T).sum().backward(retain_graph=True)
    head = embedding.grad.clone()
    embedding.grad = None
    (rows @ embedding.T).sum().backward()
    seats = F.one_hot(plan.text_ids, 50).to(rows.dtype)
    upstream = embedding.detach().sum(0).expand(len(seats), -1)
    torch.testing.assert_close(embedding.grad, head + seats.T @ upstream)


def test_newlines_need_a_newline():
    plan = plan_of(1, TileGrid((90, 40), Grid(1, 2), merge="spatial_unpad"))
    features, embedding, _ = inputs(plan)
    with pytest.raises(LlavaKitError, match="newline=False"):
        ReferenceSplicer()(plan, features, Through(rowwise=True), embedding, None)


@pytest.mark.parametrize("rowwise", [True, False])
def test_a_plan_for_other_features(rowwise):
    plan = plan_of(1, TileGrid((5, 5)))
    features, embedding, newline = inputs(plan)
    with pytest.raises(LlavaKitError, match=r"1 tiles of 3 visual rows, but the plan was made for 4 rows: .*output_grid"):
        ReferenceSplicer()(plan, features[:, :3], Through(rowwise), embedding, newline)
