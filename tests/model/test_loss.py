"""The loss over targets equals the plain loss over all positions, in one chunk or in many."""

import torch
import torch.nn.functional as F

from llava_kit.core.loss import IGNORE
from llava_kit.model import loss as loss_module
from llava_kit.model.loss import ReferenceLoss
from llava_kit_shapes import ShapesLMOptions, build_lm


def _case():
    torch.manual_seed(0)
    language_model = build_lm(ShapesLMOptions(width=32), weights=True)
    hidden = torch.randn(2, 9, 32, requires_grad=True)
    positions = torch.tensor([1, 4, 10, 16])
    ids = torch.tensor([5, 7, 9, 11])
    return language_model, hidden, positions, ids


def test_equals_the_plain_loss_with_ignored_labels():
    language_model, hidden, positions, ids = _case()
    labels = torch.full((18,), -100)
    labels[positions] = ids
    plain = F.cross_entropy(language_model.logits(hidden).flatten(0, 1), labels, reduction="sum")
    torch.testing.assert_close(ReferenceLoss()(hidden, positions, ids, language_model), plain)


def test_chunks_change_neither_loss_nor_gradients(monkeypatch):
    language_model, hidden, positions, ids = _case()
    results = []
    for limit in (1 << 25, 1):
        monkeypatch.setattr(loss_module, "CHUNK_LOGITS", limit)
        hidden.grad = language_model.head.grad = None
        loss = ReferenceLoss()(hidden, positions, ids, language_model)
        loss.backward()
        results.append((loss.detach(), hidden.grad.clone(), language_model.head.grad.clone()))
    for one, many in zip(*results):
        torch.testing.assert_close(one, many)


def test_softcap_is_part_of_the_logits():
    language_model, hidden, positions, ids = _case()
    free = ReferenceLoss()(hidden, positions, ids, language_model)
    language_model.logit_softcap = 0.5
    capped = ReferenceLoss()(hidden, positions, ids, language_model)
    assert not torch.allclose(free, capped)
    assert language_model.logits(hidden).abs().max() <= 0.5


def test_ignored_ids_count_nothing():
    language_model, hidden, positions, ids = _case()
    plain = ReferenceLoss()(hidden, positions, ids, language_model)
    filled = [torch.cat([positions, positions.new_tensor([0, 4])]), torch.cat([ids, ids.new_tensor([IGNORE, IGNORE])])]
    torch.testing.assert_close(ReferenceLoss()(hidden, *filled, language_model), plain)


def test_no_targets_is_a_zero_that_can_be_differentiated():
    language_model, hidden, _, _ = _case()
    empty = torch.empty(0, dtype=torch.long)
    loss = ReferenceLoss()(hidden, empty, empty, language_model)
    loss.backward()
    assert loss == 0
    assert not hidden.grad.any()
