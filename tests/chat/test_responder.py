"""Answers to samples: batches of a list, pieces of a stream, stop strings, beams, and prompts that leave no room."""

import numpy as np
import pytest
import torch

import llava_kit
from llava_kit.core.conversation import Conversation, ImagePixels, ImageSlot, Message, Sample
from llava_kit.errors import LlavaKitError, SampleError
from llava_kit.model.sampling import Sampling

SHORT = Sampling(max_new_tokens=12)


@pytest.fixture
def assembly(toy):
    return llava_kit.assemble(toy, seed=0)


@pytest.fixture
def responder(assembly):
    return assembly.responder()


def sample(text, *sizes, seed=0):
    generator = np.random.default_rng(seed)
    arrays = [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in sizes]
    pictures = tuple(ImagePixels(lambda a=array: a, size) for array, size in zip(arrays, sizes))
    slots = [part for index in range(len(sizes)) for part in (ImageSlot(index), "\n")]
    return Sample(f"{text}", Conversation((Message("user", (*slots, text)),)), pictures)


@pytest.fixture
def samples():
    return [
        sample("What is it?"),
        sample("Where is the red one?", (90, 30)),
        sample("And the large blue circle, where is it?", (9, 9), (64, 64), seed=1),
        sample("Which?", (33, 60), seed=2),
        sample("How many?", (60, 33), seed=3),
    ]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"stop": ("a",)}], ids=["greedy", "beams", "stop"])
def test_batches_answer_like_each_alone(responder, samples, options):
    sampling = Sampling(max_new_tokens=12, **options)
    alone = ["".join(responder.stream(sample, sampling)) for sample in samples]
    assert len(set(alone)) > 2
    for batch_size in (1, 2, 5):
        assert responder.reply(samples, sampling, batch_size=batch_size) == alone


def test_a_long_list_goes_in_batches(responder, samples, monkeypatch):
    sizes, generate = [], responder._generator.generate
    monkeypatch.setattr(responder._generator, "generate", lambda rows, *a: sizes.append(len(rows)) or generate(rows, *a))
    assert len(responder.reply(samples * 2, SHORT, batch_size=4)) == 10
    assert sizes == [4, 4, 2]
    assert responder.reply([], SHORT) == []


def test_stop_strings_of_the_user_cut_the_answer(responder, samples):
    (whole,) = responder.reply(samples[:1], SHORT)
    word = whole[len(whole) // 2 :][:3]
    sampling = Sampling(max_new_tokens=12, stop=("never said", word))
    cut = whole[: whole.index(word)].strip()
    assert cut
    assert responder.reply(samples[:1], sampling) == [cut]
    assert "".join(responder.stream(samples[0], sampling)) == cut


def test_a_stop_string_ends_the_work(responder, samples, monkeypatch):
    (whole,) = responder.reply(samples[:1], SHORT)
    steps, model = [], responder.model.language_model
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: steps.append(1) or forward(*a, **k))
    sampling = Sampling(max_new_tokens=200, stop=(whole[len(whole) // 2 :][:3],))
    responder.reply(samples[:1], sampling)
    assert len(steps) <= 12
    count = len(steps)
    list(responder.stream(samples[0], sampling))
    assert len(steps) == 2 * count


def test_beams_stream_in_one_piece(responder, samples):
    pieces = list(responder.stream(samples[1], Sampling(max_new_tokens=12, num_beams=3)))
    assert len(pieces) == 1


def test_draws_stream_as_they_reply(responder, samples):
    sampling = Sampling(max_new_tokens=12, temperature=1.5, top_p=0.95, seed=3)
    (answer,) = responder.reply(samples[1:2], sampling)
    assert "".join(responder.stream(samples[1], sampling)) == answer
    assert responder.reply(samples[1:2], Sampling(max_new_tokens=12, temperature=1.5, seed=4)) != [answer]


def test_no_room_for_the_answer(responder, samples, monkeypatch):
    monkeypatch.setattr(type(responder.model.language_model), "context", property(lambda model: 100))
    length = responder.maker.make(samples[0], reply=True).length
    responder.reply(samples[:1], Sampling(max_new_tokens=100 - length))
    for ask in (
        lambda sampling: responder.reply(samples, sampling),
        lambda sampling: list(responder.stream(samples[0], sampling)),
    ):
        with pytest.raises(SampleError) as error:
            ask(Sampling(max_new_tokens=101 - length))
        assert error.value.reason == "too_long"
        assert f"takes {length} positions and the answer may take {101 - length}" in str(error.value)
        assert f"knows 100; ask for at most {100 - length} new tokens" in str(error.value)
    monkeypatch.setattr(type(responder.model.language_model), "context", property(lambda model: 5))
    with pytest.raises(SampleError, match="expected a shorter one"):
        responder.reply(samples[:1], SHORT)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_as_it_was(responder, samples, training):
    responder.model.train(training)
    responder.reply(samples[:2], SHORT)
    stream = responder.stream(samples[0], SHORT)
    next(stream)
    assert not responder.model.training
    stream.close()
    assert responder.model.training is training
    assert torch.is_grad_enabled()


def test_chat_takes_every_option(assembly):
    answer = assembly.chat("What is it?", max_new_tokens=5, num_beams=2, length_penalty=0.5, repetition_penalty=1.1, stop=["x"])
    assert isinstance(answer, str)
    with pytest.raises(LlavaKitError, match=r"(?s)top_p: found 2.*num_beams: found 0"):
        assembly.chat("What?", top_p=2, num_beams=0)
