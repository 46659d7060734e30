"""Liger's fused linear cross-entropy behind the TargetLoss interface. T positions, M targets, D width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction
from torch import Tensor

from llava_kit import LanguageModel, PluginError
from llava_kit.core.loss import IGNORE


class LigerLoss:
    """A `TargetLoss`. Liger makes the gradients in its forward pass; here it sees the supervised rows alone."""

    def __call__(self, hidden: Tensor, positions: Tensor, ids: Tensor, language_model: LanguageModel) -> Tensor:
        """hidden [..., D] (flat: [T, D]), positions int64 [M], ids int64 [M] -> the sum, float32 [].

        Raises `PluginError` for a language model that computes its logits in a way of its own.
        """
        if language_model.has_own_logits:
            raise PluginError(
                f"loss 'liger': found {type(language_model).__name__}, which computes its logits itself; expected a head of "
                "`head`, `head_bias` and `logit_softcap`; write `loss: reference` in the recipe"
            )
        rows = hidden.flatten(0, -2).index_select(0, positions)
        if rows.shape[0] == 0:  # Liger divides by the number of rows
            return F.cross_entropy(language_model.logits(rows).float(), ids, reduction="sum")
        head, bias, softcap = language_model.head, language_model.head_bias, language_model.logit_softcap
        trains = head.requires_grad or (bias is not None and bias.requires_grad)
        if trains and torch.is_grad_enabled() and not rows.requires_grad:
            rows.requires_grad_()  # Liger makes no gradient at all where its input needs none
        # By position: class weights, the id to ignore, z-loss, label smoothing, reduction, cap.
        loss = LigerFusedLinearCrossEntropyFunction.apply(rows, head, ids, bias, None, IGNORE, 0.0, 0.0, "sum", softcap)
        assert isinstance(loss, tuple)
        return loss[0]
