"""`check_loss` finds the mistakes that a loss can make, and the reference makes none."""

import pytest
import torch
import torch.nn.functional as F

from llava_kit.core.loss import IGNORE
from llava_kit.model.loss import ReferenceLoss
from llava_kit.testing import LossCase, check_loss, loss_cases


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_reference_is_sound(dtype):
    check_loss(ReferenceLoss(), dtype)


def test_the_cases_have_different_names():
    names = [case.name for case in loss_cases()]
    assert len(set(names)) == len(names)


def _logits(hidden, positions, model):
    return model.logits(hidden.flatten(0, -2)[positions]).float()


def counts_what_is_ignored(hidden, positions, ids, model):
    return F.cross_entropy(_logits(hidden, positions, model), ids.clamp(min=0), reduction="sum")


def averages(hidden, positions, ids, model):
    return F.cross_entropy(_logits(hidden, positions, model), ids, reduction="sum") / max(1, len(ids))


def forgets_the_cap(hidden, positions, ids, model):
    logits = F.linear(hidden.flatten(0, -2)[positions], model.head, model.head_bias).float()
    return F.cross_entropy(logits, ids, reduction="sum", ignore_index=IGNORE)


def forgets_the_bias(hidden, positions, ids, model):
    logits = F.linear(hidden.flatten(0, -2)[positions], model.head).float()
    if model.logit_softcap is not None:
        logits = model.logit_softcap * (logits / model.logit_softcap).tanh()
    return F.cross_entropy(logits, ids, reduction="sum")


def detaches_the_head(hidden, positions, ids, model):
    rows = hidden.flatten(0, -2)[positions]
    logits = F.linear(rows, model.head.detach(), model.head_bias)
    return F.cross_entropy(logits.float(), ids, reduction="sum") + 0 * hidden.sum()


def trains_what_is_frozen(hidden, positions, ids, model):
    model.head.requires_grad_(True)
    return F.cross_entropy(_logits(hidden, positions, model), ids, reduction="sum")


def rounds_to_half(hidden, positions, ids, model):
    return F.cross_entropy(_logits(hidden, positions, model).bfloat16().float(), ids, reduction="sum")


def is_random(hidden, positions, ids, model):
    noise = 1 + 1e-7 * torch.randn(())
    return F.cross_entropy(_logits(hidden, positions, model) * noise, ids, reduction="sum")


def leaves_rows_unwritten(hidden, positions, ids, model):
    logits = _logits(hidden, positions, model)
    return F.cross_entropy(logits, ids, reduction="sum") + 0 * torch.empty(3).sum()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (counts_what_is_ignored, "case 'filled up': loss off by"),
        (averages, "loss off by"),
        (forgets_the_cap, "case 'capped': loss off by"),
        (forgets_the_bias, "bias trains but got no gradient"),
        (detaches_the_head, "head trains but got no gradient"),
        (trains_what_is_frozen, "head is frozen but got a gradient"),
        (rounds_to_half, "off by"),
        (is_random, "two runs differ"),
        (leaves_rows_unwritten, "memory poisoned"),
        (lambda *given: ReferenceLoss()(*given).double(), "float64, not float32"),
        (lambda *given: ReferenceLoss()(*given)[None], "has shape"),
    ],
)
def test_mistakes_are_found(loss, message):
    with pytest.raises(AssertionError, match=message):
        check_loss(loss)


def test_cases_of_one_s_own():
    check_loss(ReferenceLoss(), cases=[LossCase("wide", 5, shape=(1, 4, 70), num_targets=3, tied=True)])
