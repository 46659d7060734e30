"""`backward` for fake tensors of a GPU that is not there: torch's own engine asks the driver for its devices."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor


def gradients(loss: Tensor) -> dict[Tensor, Tensor]:
    """The gradient of each leaf: every node of the graph is run once, after all that come before it. Hooks are left out."""
    root = loss.grad_fn
    assert root is not None
    waiting = _count_readers(root)
    inputs: dict[Any, list[Tensor | None]] = {root: [torch.ones_like(loss)]}
    leaves: dict[Tensor, Tensor] = {}
    ready = [root]
    while ready:
        node = ready.pop()
        given = inputs.pop(node, None)
        if given is not None and hasattr(node, "variable"):  # the end of a path
            assert given[0] is not None
            leaves[node.variable] = given[0]
            continue
        results = (None,) * len(node.next_functions) if given is None else _run(node, given)
        for (following, slot), result in zip(node.next_functions, results):
            if following is None:
                continue
            if result is not None:
                wanted = following._input_metadata
                slots = inputs.setdefault(following, [None] * len(wanted))
                result = result.sum_to_size(wanted[slot].shape).to(wanted[slot].dtype)  # what was broadcast is added up here
                before = slots[slot]
                slots[slot] = result if before is None else before + result
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)
    return leaves


def _run(node: Any, given: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    with torch.no_grad():
        results = node.apply(*given) if hasattr(node, "apply") else node(*given)
    return results if isinstance(results, tuple) else (results,)


def _count_readers(root: Any) -> Counter[Any]:
    """How many nodes hand a gradient to each."""
    counts: Counter[Any] = Counter()
    seen, left = {root}, [root]
    while left:
        for following, _ in left.pop().next_functions:
            if following is None:
                continue
            counts[following] += 1
            if following not in seen:
                seen.add(following)
                left.append(following)
    return counts
