"""The Triton splicer: obeys the same plan as the reference, writes each row once, reads nothing back.

N tiles, P patches a tile, K visual rows in use, R blended rows, B rows of S positions, T = B * S, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llava_kit import LlavaKitError
from llava_kit.core.connector import Connector, MlpWeights
from llava_kit.core.plan_check import check_plan
from llava_kit.core.splice import SplicePlan

from .ops.activations import ACTIVATIONS
from .ops.blend_rows import blend_rows
from .ops.common import KernelInputError
from .ops.gather_rows import gather_rows
from .ops.project_rows import Projector, project_rows
from .ops.seat_rows import Fixed, seat_rows


class TritonSplicer:
    """Gathers the rows in use from the encoder's output as it lies, projects those alone, and puts all rows on their seats.

    A connector that answers `mlp()` is computed by the fused operation `project_rows`; any other by its own `forward`, between
    a gather and a scatter. Blended rows are mixed from ready rows, so batches that have them are not fused.
    """

    def __call__(
        self, plan: SplicePlan, features: Tensor, connector: Connector, embedding: Tensor, newline: Tensor | None
    ) -> Tensor:
        """features [N, P, D_vision], embedding [vocab, D], newline [D] or None -> rows [B, S, D] in the embedding's dtype.

        Raises:
            LlavaKitError: plan, features, connector and embedding do not fit; what was found, what was expected.
        """
        _check(plan, features, embedding, newline)
        fixed = _fixed(plan)
        batch, positions = plan.shape
        mlp = connector.mlp() if connector.rowwise and not plan.blends else None
        try:
            if mlp is not None and mlp.activation in ACTIVATIONS:
                rows = _projected(plan, features, mlp, embedding, newline, fixed)
            else:
                rows = _seated(plan, features, connector, embedding, newline, fixed)
        except KernelInputError as error:
            raise LlavaKitError(f"splicer 'triton': {error}; `splicer: reference` takes anything that torch does") from error
        return rows.view(batch, positions, -1)


def _projected(
    plan: SplicePlan, features: Tensor, mlp: MlpWeights, embedding: Tensor, newline: Tensor | None, fixed: Fixed
) -> Tensor:
    _check_count(plan, features)
    dtype = _compute_dtype(features, mlp.weight_1.dtype)
    x = gather_rows(features, plan.visual_rows, plan.inverse.visual_places, dtype)
    weight_1, bias_1, weight_2, bias_2 = (None if tensor is None else tensor.to(dtype) for tensor in mlp[:4])
    assert weight_1 is not None
    assert weight_2 is not None
    projector = Projector(weight_1, bias_1, weight_2, bias_2, mlp.activation)
    return project_rows(x, projector, plan.visual_positions, embedding, newline, fixed, plan.source.shape[0])


def _seated(
    plan: SplicePlan, features: Tensor, connector: Connector, embedding: Tensor, newline: Tensor | None, fixed: Fixed
) -> Tensor:
    wanted = torch.cat([plan.visual_rows, *(blend.rows for blend in plan.blends)]) if plan.blends else plan.visual_rows
    parameter = next(connector.parameters(), None)
    home = features.dtype if parameter is None else parameter.dtype
    if connector.rowwise:
        _check_count(plan, features)
        rows = connector(gather_rows(features, wanted, plan.inverse.visual_places, home))
    else:
        rows = connector(features.to(home))
        _check_count(plan, rows)
        rows = gather_rows(rows, wanted, plan.inverse.visual_places)
    counts = [plan.visual_rows.shape[0], *(blend.rows.shape[0] for blend in plan.blends)]
    visual, *mixed = rows.split(counts) if plan.blends else [rows]
    blended = blended_seats = None
    if plan.blends:
        parts = [
            blend_rows(part, blend.taps, blend.weights, blend.readers, blend.reader_bounds, blend.reduce)
            for part, blend in zip(mixed, plan.blends, strict=True)
        ]
        blended = parts[0] if len(parts) == 1 else torch.cat(parts)
        seats = [blend.positions for blend in plan.blends]
        blended_seats = seats[0] if len(seats) == 1 else torch.cat(seats)
    return seat_rows(visual, plan.visual_positions, blended, blended_seats, embedding, newline, fixed, plan.source.shape[0])


def _fixed(plan: SplicePlan) -> Fixed:
    inverse = plan.inverse
    grouped = (inverse.text_seats, inverse.group_bounds, inverse.token_bounds, inverse.tokens)
    return Fixed(plan.text_ids, plan.text_positions, *grouped, plan.newline_positions, inverse.blank_positions)


def _compute_dtype(features: Tensor, weights: torch.dtype) -> torch.dtype:
    """In what the products are taken: as torch's `linear` would, autocast included."""
    kind = features.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weights


def _check(plan: SplicePlan, features: Tensor, embedding: Tensor, newline: Tensor | None) -> None:
    devices = {"the plan": plan.source.device, "the features": features.device, "the embedding": embedding.device}
    if len(set(devices.values())) > 1:
        found = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise LlavaKitError(f"splicer 'triton': found {found}; expected all on one device (`plan.to(device)`)")
    if newline is None and plan.newline_positions.shape[0]:
        raise LlavaKitError(
            f"the plan has {plan.newline_positions.shape[0]} newline rows, but the model was made with newline=False"
        )
    # On a device it was checked on its way there; on the CPU, where kernels are interpreted, it may come straight from a hand.
    if not torch.compiler.is_compiling() and plan.source.device.type == "cpu" and type(plan.source) is Tensor:
        check_plan(plan)


def _check_count(plan: SplicePlan, rows: Tensor) -> None:
    """rows [N, P', width]"""
    if rows.shape[0] * rows.shape[1] != plan.num_visual:
        raise LlavaKitError(
            f"{rows.shape[0]} tiles of {rows.shape[1]} visual rows, but the plan was made for {plan.num_visual} rows: "
            "the plan's `side` must be the connector's output_grid of the encoder's grid, and its tiles those of this batch"
        )
