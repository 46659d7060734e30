"""torch's Muon, with the orthogonalisation in float32 and in batches of equal shape where matrices live on the CPU."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, and with the same state.

    torch orthogonalises in bfloat16. CPUs without bfloat16 arithmetic emulate it: a 96 x 264 matrix takes 15 ms instead of
    1 ms, which made two thirds of a step of the quick start. On other devices torch's own step runs.
    """

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0, momentum: float = 0.95):
        super().__init__(params, lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any(p.device.type != "cpu" for p in parameters):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape[tuple(parameter.shape)].append(parameter)
        for (rows, cols), matrices in by_shape.items():
            directions = [self._direction(matrix, group) for matrix in matrices]
            updates = orthogonalise(torch.stack(directions), group["ns_coefficients"], group["ns_steps"], group["eps"])
            # An orthogonal matrix has entries of size 1 / sqrt(longer side); AdamW's updates are about 0.2 (arXiv 2502.16982).
            scale = group["lr"] * 0.2 * max(rows, cols) ** 0.5
            for matrix, update in zip(matrices, updates):
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update.to(matrix.dtype), alpha=-scale)

    def _direction(self, matrix: Tensor, group: dict[str, Any]) -> Tensor:
        """Momentum, and Nesterov's look ahead."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad, memory_format=torch.preserve_format)
        buffer = state["momentum_buffer"]
        buffer.lerp_(matrix.grad, 1 - group["momentum"])
        return matrix.grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer


def orthogonalise(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """[n, a, b] -> float32 [n, a, b], each with its singular values brought near 1 by Newton-Schulz iterations.

    The quintic iteration of Keller Jordan's Muon (kellerjordan.github.io/posts/muon), as torch runs it.
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT.float() if tall else matrices.float()
    x = x / x.flatten(1).norm(dim=1).clamp(min=eps)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
