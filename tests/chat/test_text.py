"""Token ids become text: piece by piece the same as at once, cut where the answer ends, nothing shown that is not said."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_kit.chat.text import Ending, Writer
from llava_kit.testing.tokenizers import tokenizer_variants

TOKENIZERS = tokenizer_variants()
TEXTS = ["A cat sits on the mat.", " two  spaces", "naïve – 漢字 🙂🙃", "###Human: Is it?", "\n\nnew\n lines \n", "stop here"]


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def written(tokenizer, ids, stop=()):
    """The pieces of a stream, and whether it ended before the ids did."""
    writer = Writer(Ending(tokenizer, stop))
    pieces = []
    for token in ids:
        pieces.append(writer.add(token))
        if writer.done:
            break
    done = writer.done
    return [*pieces, writer.close()], done


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("stop", [(), ("###", "stop"), ("on the", " mat")])
def test_pieces_join_to_the_whole(tokenizer, text, stop):
    ids = ids_of(tokenizer, text)
    pieces, _ = written(tokenizer, ids, stop)
    whole = Ending(tokenizer, stop).text(ids)
    assert "".join(pieces) == whole
    first = min((text.find(word) for word in stop if word in text), default=len(text))
    assert whole == text[:first].strip()


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(TOKENIZERS)), st.lists(st.integers(0, 620), max_size=25), st.sampled_from([(), ("e", "the ", "\n")])
)
def test_pieces_of_anything_join_to_the_whole(name, ids, stop):
    """Any ids, so half letters and special tokens too; where all letters are whole, it is what the tokenizer decodes."""
    tokenizer = TOKENIZERS[name]
    ids = [token for token in ids if token < len(tokenizer)]
    text = "".join(written(tokenizer, ids, stop)[0])
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    if "\N{REPLACEMENT CHARACTER}" not in whole:
        assert text == whole[: min((whole.find(word) for word in stop if word in whole), default=len(whole))].strip()
    assert text == Ending(tokenizer, stop).text(ids)


def test_never_half_a_letter(tokenizer):
    ids = ids_of(tokenizer, "a🙂漢b")
    assert len(ids) > 4
    pieces, _ = written(tokenizer, ids)
    assert all(set(piece) <= set("a🙂漢b") for piece in pieces)
    for cut in range(len(ids)):
        assert "a🙂漢b".startswith("".join(written(tokenizer, ids[:cut])[0]))


def test_broken_bytes_spoil_nothing_before_them(tokenizer):
    smile, half = ids_of(tokenizer, "🙂"), ids_of(tokenizer, "漢")[:-1]
    text = Ending(tokenizer, ()).text([*smile, *half, *ids_of(tokenizer, "cat")])
    assert text.startswith("🙂")
    assert text.endswith("cat")


def test_nothing_of_a_stop_string_is_shown(tokenizer):
    ids = ids_of(tokenizer, "It is # red ## or ###Human: blue")
    pieces, done = written(tokenizer, ids, ("###",))
    assert done
    assert "".join(pieces) == "It is # red ## or"
    shown = ""
    for piece in pieces:
        shown += piece
        assert "It is # red ## or".startswith(shown)


def test_what_might_have_become_a_stop_string_comes_later(tokenizer):
    pieces, done = written(tokenizer, ids_of(tokenizer, "a ##"), ("###",))
    assert not done
    assert pieces[-1].strip() == "##"


def test_text_of_special_tokens_is_not_shown(tokenizer):
    ids = [*ids_of(tokenizer, "red"), tokenizer.convert_tokens_to_ids("<|im_start|>"), *ids_of(tokenizer, "blue")]
    assert "<" not in Ending(tokenizer, ()).text(ids)
    pieces, _ = written(tokenizer, ids)
    assert "".join(pieces) == Ending(tokenizer, ()).text(ids)


def test_stop_strings_that_are_tokens_end_an_answer(tokenizer):
    marker = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for stop in ("<|im_end|>", "<|im_end|>\n"):
        ending = Ending(tokenizer, ("###", stop))
        assert ending.ids == (tokenizer.eos_token_id, marker)
        assert ending.end.ids == ending.ids
    assert Ending(tokenizer, ("###",)).ids == (tokenizer.eos_token_id,)


def test_stop_strings_spelt_in_letters_end_an_answer(tokenizer):
    """A model may write `</s>` as letters, as it is written in its prompts when a user types it."""
    ids = [token for letter in "red</s>blue" for token in ids_of(tokenizer, letter)]
    assert Ending(tokenizer, ("</s>",)).text(ids).replace(" ", "") in ("red", "red</s>blue")
    spelt = [*ids_of(tokenizer, "red"), *tokenizer.backend_tokenizer.encode("ab###", add_special_tokens=False).ids]
    assert Ending(tokenizer, ("b##",)).text(spelt).endswith("a")


@pytest.mark.parametrize("stop", ["###", "USER:", " on the", "🙂"])
def test_the_end_is_seen_in_the_last_tokens(tokenizer, stop):
    """What ends an answer while it is generated is what its text is cut at."""
    end = Ending(tokenizer, (stop, "never seen")).end
    ids = ids_of(tokenizer, f"A cat sits{stop} and so on" if stop.startswith(" ") else f"A cat sits {stop} and so on")
    over = [end.is_over([ids[: n + 1][-end.tail :]])[0] for n in range(len(ids))]
    assert True in over
    first = over.index(True)
    assert stop in tokenizer.decode(ids[: first + 1])
    assert stop not in tokenizer.decode(ids[:first])


def test_no_stop_string_costs_nothing(tokenizer):
    assert Ending(tokenizer, ()).end.is_over is None
