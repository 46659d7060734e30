"""Answers of any language model: batches, the cache, where answers end, streaming, and quiet from transformers."""

import gc
import logging
import threading
import warnings
import weakref

import pytest
import torch
from transformers.utils import logging as transformers_logging

from llava_kit.errors import LlavaKitError
from llava_kit.model.generate import Generator
from llava_kit.model.sampling import End, Sampling

NEVER = End(())
HOT = {"max_new_tokens": 8, "temperature": 3.0}


@pytest.fixture
def language_model(model):
    return model.language_model


@pytest.fixture
def prompts(language_model):
    """Rows padded on the right with something that must not be looked at, and their lengths."""
    torch.manual_seed(1)
    lengths = [12, 5, 9]
    return torch.randn(3, max(lengths) + 2, language_model.width), lengths


def run(language_model, prompts, end=NEVER, **options):
    return Generator(language_model).generate(*prompts, Sampling(**{"max_new_tokens": 6, **options}), end)


def singly(language_model, prompts, end=NEVER, **options):
    rows, lengths = prompts
    return [run(language_model, (rows[i : i + 1, :n], [n]), end, **options)[0] for i, n in enumerate(lengths)]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"repetition_penalty": 2.0}], ids=["greedy", "beams", "penalty"])
def test_a_batch_equals_one_by_one(language_model, prompts, options):
    together = run(language_model, prompts, **options)
    assert together == singly(language_model, prompts, **options)
    assert [len(answer) for answer in together] == [6, 6, 6]


def test_cache_equals_running_everything_anew(language_model, prompts):
    rows, lengths = prompts
    (cached,) = run(language_model, (rows[:1], lengths[:1]), max_new_tokens=5)
    grown, fresh = rows[:1, : lengths[0]], []
    with torch.no_grad():
        for _ in range(5):
            positions = torch.arange(grown.shape[1])[None]
            token = language_model.logits(language_model(grown, positions))[0, -1].argmax()
            fresh.append(token.item())
            grown = torch.cat([grown, language_model.embedding[token][None, None]], dim=1)
    assert cached == fresh


def test_beams_find_what_an_exhaustive_search_finds(language_model, prompts):
    """With as many beams as there are tokens, two steps of beam search look at every pair of tokens."""
    rows, lengths = prompts
    vocab = language_model.head.shape[0]
    rows, length = rows[:1, : lengths[0]], lengths[0]
    with torch.no_grad():
        positions = torch.arange(length + 1)[None]
        first = language_model.logits(language_model(rows, positions[:, :-1]))[0, -1].log_softmax(-1)
        grown = torch.cat([rows.expand(vocab, -1, -1), language_model.embedding[:, None]], dim=1)
        hidden = language_model(grown, positions.expand(vocab, -1))
        both = first[:, None] + language_model.logits(hidden)[:, -1].log_softmax(-1)
    best = divmod(int(both.argmax()), vocab)
    assert run(language_model, (rows, [length]), max_new_tokens=2, num_beams=vocab) == [list(best)]


def test_draws_repeat_with_their_seed(language_model, prompts):
    one = run(language_model, prompts, seed=5, **HOT)
    assert run(language_model, prompts, seed=5, **HOT) == one
    assert run(language_model, prompts, seed=6, **HOT) != one
    assert run(language_model, prompts, **HOT) != run(language_model, prompts, **HOT)


@pytest.mark.parametrize("beams", [1, 2])
def test_draws_leave_torchs_generator_alone(language_model, prompts, beams):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for seed in (None, 1):
        run(language_model, prompts, seed=seed, num_beams=beams, **HOT)
    assert torch.equal(torch.get_rng_state(), before)


def test_narrow_draws_are_greedy(language_model, prompts):
    greedy = run(language_model, prompts)
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert run(language_model, prompts, temperature=1.0, **narrow) == greedy


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_end_at_any_end_token(language_model, prompts, beams):
    whole = run(language_model, prompts, max_new_tokens=8)
    end = End((whole[0][3], whole[1][5]))
    answers = run(language_model, prompts, end, max_new_tokens=8, num_beams=beams)
    assert answers == singly(language_model, prompts, end, max_new_tokens=8, num_beams=beams)
    assert not any(token in end.ids for answer in answers for token in answer)
    if beams == 1:
        assert answers[:2] == [whole[0][: whole[0].index(end.ids[0])], end.trim(whole[1])]


def test_answers_end_by_what_they_say(language_model, prompts):
    """The judge sees the last tokens after every step, and nothing is computed when all answers are over."""
    asked = []

    def is_over(tails):
        asked.append(tails)
        return [len(asked) >= 2] * len(tails)

    answers = run(language_model, prompts, End((), is_over, tail=2), max_new_tokens=50)
    assert [len(answer) for answer in answers] == [2, 2, 2]
    assert asked == [[answer[:1] for answer in answers], answers]


def test_streams_what_it_generates(language_model, prompts):
    rows, lengths = prompts
    generator = Generator(language_model)
    for options in ({}, {"temperature": 2.0, "seed": 4}, {"repetition_penalty": 3.0}):
        sampling = Sampling(max_new_tokens=7, **options)
        (answer,) = generator.generate(rows[:1], lengths[:1], sampling, NEVER)
        assert list(generator.stream(rows[:1, : lengths[0]], sampling, NEVER)) == answer
        assert list(generator.stream(rows[:1, : lengths[0]], sampling, End((answer[4],)))) == answer[: answer.index(answer[4])]


def test_a_stream_goes_at_the_pace_of_its_reader(language_model, prompts, monkeypatch):
    """One forward pass a token, no thread, no inference mode for whoever reads, and an end when nobody does any more."""
    rows, lengths = prompts
    steps, forward = [], language_model.forward
    monkeypatch.setattr(language_model, "forward", lambda *a, **k: steps.append(1) or forward(*a, **k))
    threads = threading.active_count()
    stream = Generator(language_model).stream(rows[:1, : lengths[0]], Sampling(max_new_tokens=50), NEVER)
    for count in range(1, 4):
        next(stream)
        assert len(steps) == count
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
    assert threading.active_count() == threads
    stream.close()
    assert len(steps) == 3


def test_errors_reach_the_reader_of_a_stream(language_model, prompts, monkeypatch):
    rows, lengths = prompts
    stream = Generator(language_model).stream(rows[:1, : lengths[0]], Sampling(), NEVER)
    next(stream)
    monkeypatch.setattr(language_model, "forward", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_a_cache_that_cannot_reorder_refuses_beams(language_model, prompts, monkeypatch):
    monkeypatch.setattr(language_model, "new_cache", lambda *arguments: object())
    with pytest.raises(LlavaKitError, match=r"num_beams: found 2, but the cache of ShapesLM cannot reorder.*use num_beams 1"):
        run(language_model, prompts, num_beams=2)


def test_the_prompt_of_beams_is_read_once(language_model, prompts, monkeypatch):
    seen, forward = [], language_model.forward
    monkeypatch.setattr(
        language_model, "forward", lambda rows, *a, **k: seen.append(tuple(rows.shape[:2])) or forward(rows, *a, **k)
    )
    run(language_model, prompts, num_beams=4, max_new_tokens=3)
    assert seen == [(3, 12), (12, 1), (12, 1)]


def test_transformers_keeps_quiet(language_model, prompts):
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = transformers_logging.get_logger("transformers")
    transformers_logging.warning_once.cache_clear()
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for end in (NEVER, End((2,)), End((0, 2))):
                for options in (
                    {},
                    {"temperature": 0.5, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": 1, "repetition_penalty": 1.1},
                    {"num_beams": 2, "length_penalty": 2.0, "repetition_penalty": 1.1},
                    {"num_beams": 2, "temperature": 0.5, "top_p": 0.5},
                ):
                    run(language_model, prompts, end, **options)
            list(Generator(language_model).stream(prompts[0][:1], Sampling(max_new_tokens=2), End((2,))))
    finally:
        logger.removeHandler(handler)
    assert said == []


def test_a_generator_is_let_go(language_model, prompts):
    generator = Generator(language_model)
    generator.generate(*prompts, Sampling(max_new_tokens=2), NEVER)
    adapter = weakref.ref(generator._generate.__self__)
    del generator
    gc.collect()
    assert adapter() is None
    assert all(parameter.requires_grad for parameter in language_model.parameters())
