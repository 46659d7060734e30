"""The plain PyTorch splicer: the truth that every other splicer is held to, and the one that runs where no kernel pays.

N tiles, P patches a tile, P' visual rows a tile, K visual rows in use, R blended rows of Q visual rows, B rows of S positions,
T = B * S, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.connector import Connector
from ..core.splice import Blend, SplicePlan
from ..errors import LlavaKitError


class ReferenceSplicer:
    """Six tensor operations whatever the batch holds, no host read, one graph; also for a batch without pictures.

    Blended rows (shrunk canvases, clips) take some more, and only in batches that have them.

    Seats are filled by adding into zeros, which is exact, as every seat is filled at most once (but the spare one of a plan
    that is filled up, which is cut off). Unlike `index_copy`, whose
    gradient clears the seats in a copy of the whole [T, D], the gradient of `index_add` is one gather for each kind of row.
    Measured on one CPU thread at B=8, D=1024, forward and backward (benchmarks/splice.py has the shapes): index_add 16 ms,
    index_copy 25 ms, concatenate and gather 16 ms, but that needs an index which the plan does not carry.
    """

    def __call__(
        self, plan: SplicePlan, features: Tensor, connector: Connector, embedding: Tensor, newline: Tensor | None
    ) -> Tensor:
        """features [N, P, D_vision], embedding [vocab, D], newline [D] or None -> rows [B, S, D] in the embedding's dtype.

        Raises `LlavaKitError` when the plan was made for another number of visual rows, or has newlines and the model none.
        """
        seated = seated_rows(plan, features, connector)
        batch, positions = plan.shape
        rows = embedding.new_zeros(batch * positions + plan.spare, embedding.shape[1])
        rows = rows.index_add_(0, plan.text_positions, F.embedding(plan.text_ids, embedding))
        for positions_of_rows, visual in seated:
            rows = rows.index_add_(0, positions_of_rows, visual.to(embedding.dtype))
        num_newlines = plan.newline_positions.shape[0]
        if newline is not None:
            rows = rows.index_add_(0, plan.newline_positions, newline.to(embedding.dtype).expand(num_newlines, -1))
        elif num_newlines:
            raise LlavaKitError(f"the plan has {num_newlines} newline rows, but the model was made with newline=False")
        if plan.spare:
            rows = rows[: batch * positions]
        return rows.view(batch, positions, -1)


def seated_rows(plan: SplicePlan, features: Tensor, connector: Connector) -> list[tuple[Tensor, Tensor]]:
    """features [N, P, D_vision] -> positions and rows: those of the visual rows, [K] and [K, D], then of each blend, [R, D].

    A rowwise connector projects these rows alone: unpad drops a fifth to a third of a common picture. Any other sees all tiles.
    A batch without pictures has K = 0 and padding tiles: encoder and connector are still in the graph, with gradients of zero.
    """
    wanted = torch.cat([plan.visual_rows, *(blend.rows for blend in plan.blends)]) if plan.blends else plan.visual_rows
    if connector.rowwise:
        rows = connector(_at_home(_flat(features, plan).index_select(0, wanted), connector))
    else:
        rows = _flat(connector(_at_home(features, connector)), plan).index_select(0, wanted)
    if not plan.blends:
        return [(plan.visual_positions, rows)]
    whole, *mixed = rows.split([plan.visual_rows.shape[0], *(blend.rows.shape[0] for blend in plan.blends)])
    blended = [(blend.positions, mix(part, blend)) for part, blend in zip(mixed, plan.blends, strict=True)]
    return [(plan.visual_positions, whole), *blended]


def mix(rows: Tensor, blend: Blend) -> Tensor:
    """[Q, D] -> [R, D], in float32 or wider where rows are summed, as torch's `interpolate` does inside."""
    if blend.reduce == "max":
        return rows.index_select(0, blend.taps.flatten()).unflatten(0, (-1, 4)).max(dim=1).values
    wide = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
    # One fused gather and sum: no [R, 4, D] is made, neither here nor in the backward pass.
    return F.embedding_bag(blend.taps, wide, mode="sum", per_sample_weights=blend.weights.to(wide.dtype))


def _at_home(features: Tensor, connector: Connector) -> Tensor:
    """`features` in the dtype of the connector's weights: a tower in bfloat16 may feed a connector that trains in float32."""
    parameter = next(connector.parameters(), None)
    return features if parameter is None else features.to(parameter.dtype)


def _flat(rows: Tensor, plan: SplicePlan) -> Tensor:
    """[N, P', width] -> [V, width]."""
    tiles, per_tile = rows.shape[:2]
    if tiles * per_tile != plan.num_visual:
        raise LlavaKitError(
            f"{tiles} tiles of {per_tile} visual rows, but the plan was made for {plan.num_visual} rows: "
            "the plan's `side` must be the connector's output_grid of the encoder's grid, and its tiles those of this batch"
        )
    return rows.flatten(0, 1)
