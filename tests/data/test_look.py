from __future__ import annotations

from llava_kit import build
from llava_kit.core.conversation import Conversation, ImageSlot, Message, Sample
from llava_kit.data.look import look_at, pieces_of, readable
from llava_kit.testing.tokenizers import byte_level_tokenizer, sentencepiece_tokenizer


def sample(*texts: str) -> Sample:
    turns = (Message(("user", "assistant")[number % 2], (text,)) for number, text in enumerate(texts))
    return Sample("s", Conversation(tuple(turns)))


def look(*texts: str, tokenizer=None, max_length=None, too_long="drop_turns"):
    tokenizer = tokenizer or sentencepiece_tokenizer()
    template = build("template", "vicuna_v1").for_tokenizer(tokenizer)
    return look_at(sample(*texts), template, tokenizer, picture_lengths=[], max_length=max_length, too_long=too_long)


def test_learnt_tokens_are_flagged():
    found = look("Why?", "So.")
    pieces = pieces_of(sentencepiece_tokenizer(), found.token_ids)
    learnt = "".join(piece for piece, flag in zip(pieces, found.trainable) if flag)
    assert learnt.strip("·") == "So.</s>"
    assert found.num_targets == sum(found.trainable)
    assert found.prompt.endswith("USER: Why? ASSISTANT: So.</s>")


def test_what_is_dropped_is_not_in_the_prompt():
    whole = look("One?", "First.", "Two?", "Second.")
    short = look("One?", "First.", "Two?", "Second.", max_length=whole.length - 1)
    assert (short.status, short.dropped_turns) == ("ok", 2)
    assert "Second" in whole.prompt
    assert "Second" not in short.prompt
    assert short.token_ids == whole.token_ids[: len(short.token_ids)]


def test_a_refusal_is_a_status():
    found = look("Why? " * 50, "So.", max_length=20)
    assert (found.id, found.status, found.token_ids, found.length) == ("s", "too_long", [], 0)
    assert "max_length 20" in found.message
    tokenizer = sentencepiece_tokenizer()
    lost = Sample("s", Conversation((Message("user", (ImageSlot(0), "?")), Message("assistant", ("x",)))))
    template = build("template", "vicuna_v1").for_tokenizer(tokenizer)
    assert look_at(lost, template, tokenizer, picture_lengths=[1], max_length=None).status == "image_count"


def test_bytes_are_read_as_letters():
    tokenizer = byte_level_tokenizer()
    text = "Où est l'été ?\nשלום 🟨 ok"
    pieces = pieces_of(tokenizer, tokenizer.encode(text, add_special_tokens=False))
    assert "·" in "".join(pieces)
    assert "⏎" in "".join(pieces)
    back = b"".join(
        bytes.fromhex(piece[1:-1]) if piece.startswith("<") else piece.replace("·", " ").replace("⏎", "\n").encode()
        for piece in pieces
    )
    assert back.decode() == text
    assert pieces_of(tokenizer, tokenizer.convert_tokens_to_ids(["<|im_end|>"])) == ["<|im_end|>"]


def test_spaces_and_lines_can_be_seen():
    assert [readable(piece) for piece in ("▁a", "Ġa", "<0x0A>", "\n")] == ["·a", "·a", "⏎", "⏎"]
