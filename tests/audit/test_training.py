from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from llava_kit.assemble.parts import build
from llava_kit.audit.check import check
from llava_kit.core.conversation import Conversation, Message, Sample, Segment
from llava_kit.core.source import DataSource
from llava_kit.core.tiles import EncoderSpec, Grid
from llava_kit.data.example import ExampleMaker
from llava_kit.image.tiling import Tiler, TilingOptions
from llava_kit.testing.tokenizers import CHATML, sentencepiece_tokenizer
from llava_kit_templates.formats import FORMATS

SPEC = EncoderSpec(16, Grid(4, 4), 4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def make_maker(max_length: int = 4096, too_long: str = "drop_turns") -> ExampleMaker:
    tokenizer = sentencepiece_tokenizer(specials=CHATML)
    return ExampleMaker(FORMATS["v1"], tokenizer, Tiler(SPEC, TilingOptions("pad")), SPEC.grid, max_length, too_long)


class Talk(DataSource):
    def __init__(self, *conversations: list[str]):
        self.conversations = conversations

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> Sample:
        texts = self.conversations[index]
        messages = tuple(Message("assistant" if turn % 2 else "user", (text,)) for turn, text in enumerate(texts))
        return Sample(f"s{index}", Conversation(messages))

    def fingerprint(self) -> str:
        return "talk"


def found(report) -> list[tuple[int, str]]:
    return sorted((finding.row, code) for code, kept in report.kept.items() for finding in kept)


def test_positions_tiles_and_targets_are_those_of_training():
    source, maker = build("source", "shapes", task="instruct", size=24), make_maker()
    report = check(source, maker=maker, workers=0)
    examples = [maker.make(source[index]) for index in range(24)]
    assert report.counts == {}
    for name, expected in (
        ("length", [example.length for example in examples]),
        ("targets", [example.num_targets for example in examples]),
        ("tiles", [len(example.tiles) for example in examples]),
    ):
        assert report.spread[name] == {value: expected.count(value) for value in expected}


def test_what_max_length_cuts():
    short = ["Why?", "So."]
    long = ["Why is it so?", "Because " * 3 + "so."] * 1 + [
        "And what of the rest?",
        "It is as it was, and will be, for a long time to come.",
    ]
    endless = ["Why?", " ".join(f"word{number}" for number in range(200))]
    length = make_maker().make(Talk(long)[0]).length
    source = Talk(short, long, endless)
    dropping = check(source, maker=make_maker(length - 1), workers=0)
    assert found(dropping) == [(1, "dropped_turns"), (2, "too_long")]
    (cut,) = dropping.kept["dropped_turns"]
    assert cut.message == f"takes {length} positions, more than max_length {length - 1}; 2 turns are left out, 2 stay"
    assert found(check(source, maker=make_maker(length - 1, "drop_sample"), workers=0)) == [(1, "too_long"), (2, "too_long")]
    # What a sample would take is counted whole, whatever is cut.
    assert length in dropping.spread["length"]


def test_a_mistake_is_told_once():
    report = check(Talk(["Why?", " "], ["Why?", "So.", "And?"]), maker=make_maker(), workers=0)
    assert found(report) == [(0, "empty_answer"), (1, "bad_turns")]


def test_stop_strings_of_the_template():
    report = check(Talk(["Why?", "So.</s> No."], ["What is </s>?", "A mark."]), maker=make_maker(), workers=0)
    assert found(report) == [(0, "stop_string"), (1, "special_token")]


def test_little_that_is_learnt_is_a_note():
    question = " ".join(f"word{number}" for number in range(2500))
    report = check(Talk([question, "a"]), maker=make_maker(100_000), workers=0)
    assert found(report) == [(0, "few_targets")]
    assert not report.fails(strict=True)


def test_words_that_the_tokenizer_does_not_know():
    """A tokenizer of whole words; most others fall back to bytes."""
    template = FORMATS["v1"]
    pieces = template.render(Talk(["What is this?", "It is old."])[0].conversation)
    known = "".join(piece.text for piece in pieces if isinstance(piece, Segment)).replace("</s>", " ").split()
    words = Tokenizer(
        WordLevel({word: number for number, word in enumerate(dict.fromkeys(["<unk>", "</s>", *known]))}, "<unk>")
    )
    words.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    words.add_special_tokens(["</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    maker = ExampleMaker(template, tokenizer, Tiler(SPEC, TilingOptions("pad")), SPEC.grid, 4096)
    report = check(Talk(["What is this?", "It is old."], ["What is this?", "It is Zwölfeck."]), maker=maker, workers=0)
    assert found(report) == [(1, "unknown_token")]
    assert "1 of its" in report.kept["unknown_token"][0].message
