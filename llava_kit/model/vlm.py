"""VisionLanguageModel: encoder, connector and language model put together by a splicer that obeys the plan.

N tiles, P patches a tile, B rows of S positions, M targets, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.connector import Connector
from ..core.encoder import Encoder
from ..core.language_model import LanguageModel
from ..core.loss import TargetLoss
from ..core.splice import SplicePlan, Splicer
from .loss import ReferenceLoss


class VisionLanguageModel(nn.Module):
    """Tiles and a plan in, hidden states (or the loss) out.

    `newline`: the model has a newline row, put at the end of each line of detail tiles (LLaVA-NeXT's `image_newline`). It
    belongs to the connector: it trains, freezes and is saved with it. `loss`: by default the plain PyTorch one.
    """

    def __init__(
        self,
        encoder: Encoder,
        connector: Connector,
        language_model: LanguageModel,
        splicer: Splicer,
        *,
        newline: bool = False,
        loss: TargetLoss | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.connector = connector
        self.language_model = language_model
        self.splicer = splicer
        self.loss = ReferenceLoss() if loss is None else loss
        width = language_model.width
        # The scale is the original's: randn / sqrt(width) (LLaVA-NeXT, llava_arch.py).
        self.newline = nn.Parameter(torch.randn(width) * width**-0.5) if newline else None

    def embed(self, tiles: Tensor, plan: SplicePlan) -> Tensor:
        """uint8 [N, 3, H, W] -> input rows of the language model [B, S, D]."""
        features = self.encoder(tiles)
        return self.splicer(plan, features, self.connector, self.language_model.embedding, self.newline)

    def forward(
        self,
        tiles: Tensor,
        plan: SplicePlan,
        position_ids: Tensor,
        target_positions: Tensor | None = None,
        target_ids: Tensor | None = None,
    ) -> Tensor:
        """uint8 [N, 3, H, W], int64 [B, S] -> hidden [B, S, D]; with targets int64 [M] the summed cross-entropy, float32 [].

        The loss is taken inside the forward pass because the head is a parameter of the root: a sharded engine gathers the
        root's parameters for exactly this call.
        """
        rows = self.embed(tiles, plan)
        hidden = self.language_model(rows, position_ids, sequences=plan.sequences)
        if target_positions is None or target_ids is None:
            return hidden
        return self.loss(hidden, target_positions, target_ids, self.language_model)

    def component_parameters(self, component: str) -> dict[str, nn.Parameter]:
        """The parameters of `encoder`, `connector` (with the newline row) or `language_model`, by name inside the component."""
        parameters = dict(getattr(self, component).named_parameters())
        if component == "connector" and self.newline is not None:
            parameters["newline"] = self.newline
        return parameters

    @property
    def device(self) -> torch.device:
        return self.language_model.embedding.device
