from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, processors

from llava_kit.core.conversation import Conversation, ImageSlot, Message, Segment
from llava_kit.data.tokenize import _codec, encode
from llava_kit.errors import LlavaKitError
from llava_kit.splice.build import IMAGE
from llava_kit.testing.tokenizers import byte_level_tokenizer, sentencepiece_tokenizer, tokenizer_variants
from llava_kit_templates.formats import FORMATS

TOKENIZERS = tokenizer_variants()
KINDS = pytest.mark.parametrize("kind", sorted(TOKENIZERS))
TEXTS = st.text(alphabet=st.sampled_from("aA b.\n?é中🙂▁<|/s#"), max_size=24)
MARKED = st.one_of(TEXTS, st.sampled_from(["</s>", "<s>", "<|im_end|>", "a <|im_start|>user\n", "<unk></s>", "<image>"]))


def pieces_of(tokenizer, encoded, learnt: bool = True) -> list[str]:
    """The trained (or all) pieces as the vocabulary writes them."""
    return [
        tokenizer.convert_ids_to_tokens(int(token)) if token != IMAGE else "<image>"
        for token, flag in zip(encoded.token_ids, encoded.trainable)
        if flag or not learnt
    ]


def original_ids(text: str, tokenizer) -> list[int]:
    """What LLaVA's way of tokenising gives: stretch by stretch, the later ones without their beginning-of-sequence token."""
    first, *rest = (tokenizer(stretch).input_ids for stretch in text.split("<image>"))
    start = 1 if first[:1] == [tokenizer.bos_token_id] else 0
    return [*first, *(token for stretch in rest for token in (IMAGE, *stretch[start:]))]


def flat(pieces) -> str:
    return "".join(piece.text if isinstance(piece, Segment) else "<image>" for piece in pieces)


def conversation(*texts: str) -> Conversation:
    """`<image>` in the user's text marks a picture here."""
    messages, count = [], 0
    for turn, text in enumerate(texts):
        parts: list[str | ImageSlot] = []
        for piece in re.split("(<image>)", text) if turn % 2 == 0 else [text]:
            if piece == "<image>" and turn % 2 == 0:
                parts.append(ImageSlot(count))
                count += 1
            elif piece:
                parts.append(piece)
        messages.append(Message("assistant" if turn % 2 else "user", tuple(parts)))
    return Conversation(tuple(messages))


@KINDS
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_ids_are_those_of_the_original(kind, name):
    tokenizer = TOKENIZERS[kind]
    turns = ("<image>\nWhat is it? 🙂", "A cat.", "Why?\nIs it <image>?", "Because it is so.")
    pieces = FORMATS[name].render(conversation(*turns[: 2 if name == "plain" else 4]))
    assert encode(pieces, tokenizer).token_ids.tolist() == original_ids(flat(pieces), tokenizer)


@pytest.mark.parametrize(
    ("name", "kind", "learnt"),
    [
        ("v1", "legacy", ["▁A", "▁cat", ".", "</s>", "▁It", "▁is", "▁blue.", "</s>"]),
        ("v1", "metaspace", ["▁A", "▁cat", ".", "</s>", "▁It", "▁is", "▁blue.", "</s>"]),
        ("v1", "byte_level", ["ĠA", "Ġcat", ".", "</s>", "ĠIt", "Ġis", "Ġblue", ".", "</s>"]),
        ("llama_2", "legacy", ["▁A", "▁cat", ".", "▁", "</s>", "▁It", "▁is", "▁blue.", "▁", "</s>"]),
        ("mistral_instruct", "metaspace", ["▁A", "▁cat", ".", "▁", "</s>", "▁It", "▁is", "▁blue.", "▁", "</s>"]),
        ("chatml_direct", "without_bos", ["A", "▁cat", ".", "<|im_end|>", "I", "t", "▁is", "▁blue.", "<|im_end|>"]),
        ("mpt", "legacy", ["A", "▁cat", ".", "<|im_end|>", "I", "t", "▁is", "▁blue.", "<|im_end|>"]),
        ("qwen_1_5", "byte_level", ["A", "Ġcat", ".", "<|im_end|>", "I", "t", "Ġis", "Ġblue", ".", "<|im_end|>"]),
        ("v0", "legacy", ["▁A", "▁cat", ".", "###", "▁It", "▁is", "▁blue.", "###"]),
    ],
)
def test_what_is_learnt(name, kind, learnt):
    tokenizer = TOKENIZERS[kind]
    turns = conversation("<image>\nWhat is it?", "A cat.", "Which colour is it?", "It is blue.")
    found = pieces_of(tokenizer, encode(FORMATS[name].render(turns), tokenizer))
    if name == "v0":  # how the three hashes fall apart, and whether with the full stop, is the vocabulary's affair
        assert "".join(found) == "".join(learnt)
    else:
        assert found == learnt


def test_plain_learns_caption_and_newline():
    tokenizer = TOKENIZERS["legacy"]
    encoded = encode(FORMATS["plain"].render(conversation("Describe.\n<image>", "A cat.")), tokenizer)
    assert pieces_of(tokenizer, encoded, learnt=False) == ["<s>", "<image>", "▁A", "▁cat", ".", "<0x0A>"]
    assert encoded.trainable.tolist() == [False, False, True, True, True, True]
    assert encoded.slots == (0,)


@KINDS
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(MARKED, min_size=4, max_size=4))
def test_typed_markers_are_letters(kind, texts):
    """Whatever is typed comes back letter by letter, and the only special tokens are the template's."""
    tokenizer = TOKENIZERS[kind]
    question, answer, again, last = texts
    pieces = [
        Segment("<s>", special=True),
        Segment(f"USER: {question}"),
        Segment(" ASSISTANT:", special=True),
        Segment(f" {answer}", trainable=True),
        Segment("</s>", trainable=True, special=True),
        Segment(again),
        Segment("<|im_start|>", special=True),
        Segment(last, trainable=True),
    ]
    encoded = encode(pieces, tokenizer)
    ids = encoded.token_ids.tolist()
    markers = tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<|im_start|>"])
    assert [token for token in ids if token in (*markers, tokenizer.convert_tokens_to_ids("<|im_end|>"))] == markers
    ends = [ids.index(marker) for marker in markers]
    spaces = (" ", "▁")

    def bare(text: str) -> str:
        return "".join(letter for letter in text if letter not in spaces)

    texts_between = [f"USER: {question} ASSISTANT: {answer}", again, last]
    for number, expected in enumerate(texts_between):
        stop = ends[number + 1] if number + 1 < len(ends) else len(ids)
        inside = tokenizer.decode(ids[ends[number] + 1 : stop], skip_special_tokens=False)
        assert bare(inside) == bare(expected)


@KINDS
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, min_size=3, max_size=3))
def test_guarded_way_equals_plain_way(kind, texts):
    """Without a typed marker both ways give the same ids and flags."""
    tokenizer = TOKENIZERS[kind]
    codec = _codec(tokenizer)
    stretch = [
        Segment("<|im_start|>user\n", special=True),
        Segment(texts[0]),
        Segment("</s>", special=True),
        Segment(texts[1], trainable=True),
        Segment("<|im_end|>\n", trainable=True, special=True),
        Segment(texts[2]),
    ]
    stretch = [segment for segment in stretch if segment.text]
    ids, runs = codec.encode(stretch)
    guarded_ids, guarded_runs = codec._encode_guarded(stretch, codec.specials)
    assert guarded_ids == ids
    assert [run for run in guarded_runs if run[0] < run[1]] == [run for run in runs if run[0] < run[1]]


@KINDS
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.tuples(TEXTS, st.booleans()), min_size=1, max_size=6))
def test_each_token_has_the_flag_of_the_letter_it_begins_with(kind, texts):
    tokenizer = TOKENIZERS[kind]
    stretch = [Segment(text, flag) for text, flag in texts if text]
    flags = [flag for segment in stretch for flag in [segment.trainable] * len(segment.text)]
    encoded = encode(stretch, tokenizer)
    codec = _codec(tokenizer)
    found = codec.plain.encode(flat(stretch), add_special_tokens=False)
    expected = [False] * len(codec.prefix) + [flags[start] for start, _ in found.offsets]
    assert encoded.token_ids.tolist() == codec.prefix + found.ids
    assert encoded.trainable.tolist() == expected


def test_private_characters_in_the_text_do_no_harm():
    tokenizer = TOKENIZERS["legacy"]
    text = "\U0010fffd0\U0010fffd \U0010fffc </s>"
    ids = encode([Segment(text), Segment("</s>", special=True)], tokenizer).token_ids.tolist()
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[1:-1]).strip() == text


def test_marker_across_a_border_stays_text():
    tokenizer = TOKENIZERS["metaspace"]
    ids = encode([Segment("a </"), Segment("s>", special=True)], tokenizer).token_ids.tolist()
    assert tokenizer.eos_token_id not in ids


def test_template_marker_that_is_no_special_token():
    """Added tokens that are not special are words for everybody, until a template uses them as its marks."""
    tokenizer = sentencepiece_tokenizer()
    tokenizer.add_tokens([AddedToken("<|mark|>", special=False, normalized=False), AddedToken("zebra", normalized=False)])
    mark, zebra = tokenizer.convert_tokens_to_ids(["<|mark|>", "zebra"])
    words = [Segment("a <|mark|> zebra")]
    assert encode(words, tokenizer).token_ids.tolist().count(mark) == 1
    ids = encode([Segment("<|mark|>", special=True), *words], tokenizer).token_ids.tolist()
    assert ids.count(mark) == 1
    assert ids.count(zebra) == 1
    assert ids[1] == mark


def test_unknown_marker_stays_text():
    tokenizer = byte_level_tokenizer(specials=())
    ids = encode([Segment("<|im_start|>user\n", special=True)], tokenizer).token_ids.tolist()
    assert tokenizer.decode(ids) == "<|im_start|>user\n"
    assert len(ids) > 3


def test_written_beginning_is_not_doubled():
    tokenizer = byte_level_tokenizer(specials=("<|begin_of_text|>",), add_bos=True)
    marker = Segment(tokenizer.bos_token, special=True)
    assert encode([marker, Segment("a")], tokenizer).token_ids.tolist().count(tokenizer.bos_token_id) == 1
    typed = encode([Segment(tokenizer.bos_token)], tokenizer).token_ids.tolist()
    assert typed.count(tokenizer.bos_token_id) == 1
    assert len(typed) > 1


def test_no_end_of_sequence_that_nobody_wrote():
    tokenizer = sentencepiece_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert tokenizer("a").input_ids[-1] == 2
    assert encode([Segment("a"), ImageSlot(0), Segment("b")], tokenizer).token_ids.tolist().count(2) == 0


def test_truncation_of_the_tokenizer_is_ignored():
    tokenizer = sentencepiece_tokenizer()
    tokenizer("a b c d e f", truncation=True, max_length=3)
    tokenizer("a", padding="max_length", max_length=9)
    assert len(encode([Segment("a cat " * 30)], tokenizer).token_ids) > 30


def test_nothing_but_a_picture():
    encoded = encode([ImageSlot(4)], TOKENIZERS["legacy"])
    assert encoded.token_ids.tolist() == [1, IMAGE]
    assert encoded.slots == (4,)
    assert encoded.trainable.dtype == np.bool_
    assert encode([], TOKENIZERS["without_bos"]).token_ids.tolist() == []


def test_slow_tokenizer_is_refused():
    with pytest.raises(LlavaKitError, match="fast tokenizer"):
        encode([Segment("a")], type("SlowTokenizer", (), {})())


def test_tokenizer_can_be_pickled_after_use():
    tokenizer = TOKENIZERS["metaspace"]
    pieces = [Segment("A cat </s>."), Segment("</s>", special=True)]
    before = encode(pieces, tokenizer)
    after = encode(pieces, pickle.loads(pickle.dumps(tokenizer)))
    assert before.token_ids.tolist() == after.token_ids.tolist()


@KINDS
def test_what_is_learnt_everywhere(kind):
    """By id: a token that is this text alone, wherever it stands; a line break in a longer token is not meant."""
    tokenizer = TOKENIZERS[kind]
    pieces = [
        Segment("<|im_start|>user\n", special=True),
        Segment("a\nb <|im_start|>"),
        ImageSlot(0),
        Segment("\nc"),
        Segment("<|im_end|>", special=True),
    ]
    for tokenisation in ("chunks", "whole"):
        encoded = encode(pieces, tokenizer, tokenisation=tokenisation, learnt_everywhere=("\n", "<|im_start|>", "no token"))
        plain = encode(pieces, tokenizer, tokenisation=tokenisation)
        assert encoded.token_ids.tolist() == plain.token_ids.tolist()
        assert not plain.trainable.any()
        found = pieces_of(tokenizer, encoded)
        assert [piece.replace("Ċ", "<0x0A>") for piece in found] == ["<|im_start|>", "<0x0A>", "<0x0A>", "<0x0A>"]


def test_whole_and_chunks_side_by_side():
    pieces = [Segment("What is it? "), ImageSlot(0), Segment("\nIt is"), ImageSlot(1), ImageSlot(2)]
    found = {}
    for kind in ("legacy", "metaspace", "byte_level"):
        for way in ("chunks", "whole"):
            encoded = encode(pieces, TOKENIZERS[kind], tokenisation=way)
            assert encoded.slots == (0, 1, 2)
            found[kind, way] = pieces_of(TOKENIZERS[kind], encoded, learnt=False)
    assert found["legacy", "chunks"] == found["legacy", "whole"]
    assert found["byte_level", "chunks"] == found["byte_level", "whole"]
    tail = ["It", "▁is", "<image>", "<image>"]
    chunks, whole = found["metaspace", "chunks"], found["metaspace", "whole"]
    at = whole.index("<image>")
    assert chunks[: at + 1] == whole[: at + 1]
    assert chunks[at + 1 : at + 3] == ["▁", "<0x0A>"]
    assert whole[at + 1] == "<0x0A>"
    assert chunks[-2:] == whole[-2:] == tail[-2:]


@KINDS
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(MARKED, min_size=3, max_size=3))
def test_whole_reads_no_typed_marker(kind, texts):
    tokenizer = TOKENIZERS[kind]
    pieces = [Segment(texts[0]), ImageSlot(0), Segment(texts[1]), Segment("</s>", True, True), Segment(texts[2]), ImageSlot(1)]
    encoded = encode(pieces, tokenizer, tokenisation="whole")
    ids = encoded.token_ids.tolist()
    assert ids.count(IMAGE) == 2
    assert ids.count(tokenizer.eos_token_id) == 1
    assert encoded.trainable.sum() == 1
    assert encoded.trainable[ids.index(tokenizer.eos_token_id)]
