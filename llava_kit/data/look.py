"""What a sample becomes, token by token, for people: which tokens are learnt, which are left out, and how a token is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..core.conversation import ImageSlot, Sample, Segment
from ..core.template import ConversationTemplate
from ..errors import SampleError
from .example import Fitted, fit_turns


class Look(NamedTuple):
    """One sample, looked at. `slots`: which picture stands at each negative token; `length` counts their rows too.

    `status` is `ok` or the reason why the sample cannot be used; then `message` says more and there are no tokens.
    """

    id: str
    prompt: str
    token_ids: list[int]
    trainable: list[bool]
    slots: tuple[int, ...]
    length: int
    dropped_turns: int
    status: str = "ok"
    message: str = ""

    @property
    def num_targets(self) -> int:
        return sum(self.trainable)


def look_at(
    sample: Sample,
    template: ConversationTemplate,
    tokenizer: Any,
    *,
    picture_lengths: Sequence[int],
    max_length: int | None,
    too_long: str = "drop_turns",
) -> Look:
    """The sample as `fit_turns` brings it to `max_length`; one that cannot be used is told by its `status`."""
    prompt = ""
    try:
        prompt = text_of(template.render(sample.conversation))
        fitted = fit_turns(
            sample, template, tokenizer, picture_lengths=picture_lengths, max_length=max_length, too_long=too_long
        )
    except SampleError as error:
        return refused(error, sample.id, prompt)
    return _look(sample.id, fitted, text_of(template.render(fitted.conversation)) if fitted.dropped_turns else prompt)


def refused(error: SampleError, name: str, prompt: str = "") -> Look:
    """The look at a sample that cannot be used."""
    return Look(error.sample_id or name, prompt, [], [], (), 0, 0, error.reason, error.message)


def _look(name: str, fitted: Fitted, prompt: str) -> Look:
    trainable = fitted.encoded.trainable.tolist()
    trainable[0] = False  # nothing comes before it
    ids = fitted.encoded.token_ids.tolist()
    return Look(name, prompt, ids, trainable, fitted.encoded.slots, fitted.length, fitted.dropped_turns)


def text_of(pieces: Sequence[Segment | ImageSlot]) -> str:
    """A rendered conversation as text, `<image>` at the place of each picture."""
    return "".join(piece.text if isinstance(piece, Segment) else "<image>" for piece in pieces)


def pieces_of(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """Each token as one can read it; what stands at a negative id means nothing."""
    pieces = tokenizer.convert_ids_to_tokens([max(0, token) for token in token_ids])
    if b"ByteLevel" in tokenizer.backend_tokenizer.decoder.__getstate__():
        pieces = [_from_bytes(piece or "") for piece in pieces]
    return [readable(piece or "") for piece in pieces]


def readable(piece: str) -> str:
    """A piece of the vocabulary with its spaces and line breaks as one can see them."""
    for written, shown in (("▁", "·"), ("Ġ", "·"), ("Ċ", "⏎"), ("<0x0A>", "⏎"), ("\n", "⏎"), (" ", "·")):
        piece = piece.replace(written, shown)
    return piece


def _byte_letters() -> dict[str, int]:
    """GPT-2's letters for bytes: those that can be printed stand for themselves, the others for 256 and up."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_BYTES = _byte_letters()


def _from_bytes(piece: str) -> str:
    """The letters that a piece's bytes are; bytes that are part of a letter as numbers."""
    if not all(letter in _BYTES for letter in piece):
        return piece  # a token that was added as text
    found = bytes(_BYTES[letter] for letter in piece)
    try:
        return found.decode("utf-8")
    except UnicodeDecodeError:
        return f"<{found.hex(' ')}>"
