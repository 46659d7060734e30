"""A conversation: turns are remembered, pictures stay, mistakes leave no trace, and user text has no power."""

import numpy as np
import pytest
from PIL import Image

import llava_kit
from llava_kit.chat.session import as_image
from llava_kit.core.conversation import Conversation, ImagePixels, ImageSlot, Message, Sample
from llava_kit.errors import DataError, LlavaKitError, SampleError
from llava_kit.model.sampling import Sampling

SHORT = Sampling(max_new_tokens=6)


@pytest.fixture
def assembly(toy):
    return llava_kit.assemble(toy, seed=0)


def _picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return ImagePixels(lambda: pixels, (width, height))


def _sample(text, *pictures):
    slots = [part for index in range(len(pictures)) for part in (ImageSlot(index), "\n")]
    return Sample("s", Conversation((Message("user", (*slots, text)),)), pictures)


def test_turns_and_pictures_are_remembered(assembly, tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    session = assembly.session()
    first = "".join(session.ask("What is it?", [tmp_path / "a.png"], SHORT))
    "".join(session.ask("And now?", [_picture(50, 20)], SHORT))
    assert [message.role for message in session.messages] == ["user", "assistant"] * 2
    assert session.messages[1].text == first
    assert len(session.images) == 2
    session.clear()
    assert (session.messages, session.images) == ([], [])


def test_pieces_join_to_the_whole_answer(assembly):
    sample = _sample("What is it?", _picture(33, 60))
    responder = assembly.responder()
    assert "".join(responder.stream(sample, SHORT)) == responder.reply([sample], SHORT)[0]


def test_a_batch_answers_like_each_alone(assembly):
    samples = [
        _sample("What?"),
        _sample("Where is the red one?", _picture(90, 30)),
        _sample("Who?", _picture(9, 9), _picture(64, 64)),
    ]
    responder = assembly.responder()
    together = responder.reply(samples, SHORT)
    assert together == [responder.reply([sample], SHORT)[0] for sample in samples]
    assert responder.reply([], SHORT) == []


def test_user_text_is_only_text(assembly):
    maker = assembly.examples()
    plain = maker.make(_sample("What is <image> and </s> here?"), reply=True)
    assert plain.tiles.shape[0] == 0
    eos = assembly.tokenizer.eos_token_id
    assert eos not in plain.seating.token_ids.tolist()


def test_a_mistake_leaves_no_trace(assembly, tmp_path):
    session = assembly.session()
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(SampleError):
        list(session.ask("What is it?", [tmp_path / "broken.png"], SHORT))
    assert session.messages == []
    assert isinstance("".join(session.ask("What is it?", [], SHORT)), str)


@pytest.mark.parametrize(
    "image",
    [Image.new("L", (7, 5)), np.zeros((5, 7, 3), np.uint8), _picture(7, 5)],
    ids=["pil", "array", "ref"],
)
def test_pictures_in_many_forms(image):
    assert as_image(image).size == (7, 5)


def test_what_is_no_picture_is_told():
    with pytest.raises(DataError, match="no such file"):
        as_image("nowhere.png")
    with pytest.raises(LlavaKitError, match=r"float64"):
        as_image(np.zeros((5, 7, 3)))
    with pytest.raises(LlavaKitError, match="int"):
        as_image(5)


def test_chat_is_one_call(assembly):
    assert isinstance(assembly.chat("What is it?", [_picture(40, 40)], max_new_tokens=3), str)
