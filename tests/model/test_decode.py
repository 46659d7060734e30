"""A batch of unequal prompts decodes like each prompt alone, and like the model run anew for every token."""

import pytest
import torch

from llava_kit.errors import LlavaKitError
from llava_kit.model.decode import Sampling, decode


def _run(model, rows, lengths, sampling):
    return list(zip(*decode(model, rows, lengths, sampling, [False] * len(lengths))))


@pytest.fixture
def prompts(model):
    torch.manual_seed(1)
    lengths = [11, 4, 7]
    rows = torch.zeros(3, 11, 32)
    for number, length in enumerate(lengths):
        rows[number, :length] = torch.randn(length, 32)
    return rows, lengths


def test_batch_equals_single(model, prompts):
    rows, lengths = prompts
    sampling = Sampling(max_new_tokens=6)
    together = _run(model, rows, lengths, sampling)
    alone = [_run(model, rows[i : i + 1, :n], [n], sampling)[0] for i, n in enumerate(lengths)]
    assert together == alone


def test_cache_equals_running_everything_anew(model, prompts):
    rows, lengths = prompts
    (cached,) = _run(model, rows[:1], lengths[:1], Sampling(max_new_tokens=5))
    grown, fresh = rows[:1], []
    with torch.no_grad():
        for _ in range(5):
            positions = torch.arange(grown.shape[1])[None]
            token = model.language_model.logits(model.language_model(grown, positions))[0, -1].argmax()
            fresh.append(token.item())
            grown = torch.cat([grown, model.language_model.embedding[token][None, None]], dim=1)
    assert list(cached) == fresh


def test_sampling_repeats_with_its_seed_and_varies_without(model, prompts):
    rows, lengths = prompts
    hot = Sampling(max_new_tokens=8, temperature=3.0, seed=5)
    assert _run(model, rows, lengths, hot) == _run(model, rows, lengths, hot)
    assert _run(model, rows, lengths, hot) != _run(model, rows, lengths, Sampling(max_new_tokens=8, temperature=3.0, seed=6))


def test_narrow_sampling_is_greedy(model, prompts):
    rows, lengths = prompts
    greedy = _run(model, rows, lengths, Sampling(max_new_tokens=5))
    assert _run(model, rows, lengths, Sampling(max_new_tokens=5, temperature=1.0, top_k=1)) == greedy
    assert _run(model, rows, lengths, Sampling(max_new_tokens=5, temperature=1.0, top_p=1e-6)) == greedy


def test_stops_when_all_are_finished(model, prompts):
    rows, lengths = prompts
    finished, steps = [False] * 3, 0
    for _ in decode(model, rows, lengths, Sampling(max_new_tokens=50), finished):
        steps += 1
        finished[:] = [True] * 3 if steps == 2 else finished
    assert steps == 2


def test_bad_sampling_names_every_mistake():
    with pytest.raises(LlavaKitError) as error:
        Sampling(max_new_tokens=0, temperature=float("nan"), top_p=0.0, top_k=-1)
    assert all(name in str(error.value) for name in ("max_new_tokens", "temperature", "top_p", "top_k"))
