"""The plain PyTorch splicer: the truth that every other splicer is held to, and the one that runs where no kernel pays.

N tiles, P patches a tile, P' visual rows a tile, K visual rows in use, B rows of S positions, T = B * S, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..core.connector import Connector
from ..core.splice import SplicePlan
from ..errors import LlavaKitError


class ReferenceSplicer:
    """Six tensor operations whatever the batch holds, no host read, one graph; also for a batch without pictures.

    Seats are filled by adding into zeros, which is exact, as every seat is filled at most once. Unlike `index_copy`, whose
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
        visual = visual_rows(plan, features, connector).to(embedding.dtype)
        batch, positions = plan.shape
        rows = embedding.new_zeros(batch * positions, embedding.shape[1])
        rows = rows.index_add_(0, plan.text_positions, F.embedding(plan.text_ids, embedding))
        rows = rows.index_add_(0, plan.visual_positions, visual)
        num_newlines = plan.newline_positions.shape[0]
        if newline is not None:
            rows = rows.index_add_(0, plan.newline_positions, newline.to(embedding.dtype).expand(num_newlines, -1))
        elif num_newlines:
            raise LlavaKitError(f"the plan has {num_newlines} newline rows, but the model was made with newline=False")
        return rows.view(batch, positions, -1)


def visual_rows(plan: SplicePlan, features: Tensor, connector: Connector) -> Tensor:
    """features [N, P, D_vision] -> the visual rows in use [K, D], in order of position.

    A rowwise connector projects these rows alone: unpad drops a fifth to a third of a common picture. Any other sees all tiles.
    A batch without pictures has K = 0 and padding tiles: encoder and connector are still in the graph, with gradients of zero.
    """
    if connector.rowwise:
        return connector(_at_home(_flat(features, plan).index_select(0, plan.visual_rows), connector))
    return _flat(connector(_at_home(features, connector)), plan).index_select(0, plan.visual_rows)


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
