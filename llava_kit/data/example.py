"""A sample becomes an example: token ids, flags, tiles. Every check of a single sample lives here or in its template.

n tiles of S x S pixels. Lengths are counted in positions of the language model, visual and newline rows included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.conversation import Conversation, ImageSlot, Sample
from ..core.template import ConversationTemplate
from ..core.tiles import ClipGrid, Grid
from ..errors import LlavaKitError, SampleError, suggest
from ..image.reader import read_pixels
from ..image.tiling import Tiler
from ..splice.build import Seating
from ..splice.layout import count_rows
from .clips import Shown, shown_of, tell_times
from .tokenize import Encoded, encode

TOO_LONG = ("drop_turns", "drop_sample", "error")


@dataclass(frozen=True)
class Example:
    """One sample, ready to be seated in a batch.

    tiles          uint8 [n, 3, S, S]  of its pictures in order, each overview first; of clips a tile for each frame
    length         positions it takes
    num_targets    how many tokens are learnt
    dropped_turns  turns at the end that were left out because the sample was too long
    """

    seating: Seating
    tiles: NDArray[np.uint8]
    length: int
    num_targets: int
    tags: Mapping[str, Any]
    dropped_turns: int
    sample: Sample

    @property
    def id(self) -> str:
        return self.sample.id


class ExampleMaker:
    """Makes examples of samples, for training and for asking alike. Can be pickled to data workers.

    `side` is the grid of one tile's visual rows, `max_length` the most positions an example may take. `too_long` says what
    becomes of a longer one: `drop_turns` leaves out whole question-and-answer pairs at its end until it fits; with
    `drop_sample` and `error` it is refused (`error`: the loader stops the run).
    """

    def __init__(
        self,
        template: ConversationTemplate,
        tokenizer: Any,
        tiler: Tiler,
        side: Grid,
        max_length: int,
        too_long: str = "drop_turns",
    ):
        if too_long not in TOO_LONG:
            raise LlavaKitError(f"too_long: found {too_long!r}; {suggest(too_long, TOO_LONG)}")
        self.template, self.tokenizer, self.tiler, self.side = template.for_tokenizer(tokenizer), tokenizer, tiler, side
        self.max_length, self.too_long = max_length, too_long

    def make(self, sample: Sample, *, reply: bool = False) -> Example:
        """The example of `sample`. With `reply` the last turn is the user's and the example is the prompt for an answer.

        Raises:
            SampleError: the sample cannot be used; the error names it and has one of the reasons `image_count`, `bad_turns`,
                `empty_answer`, `no_targets`, `too_long`, `video` (a clip, but the tiling has no `video` block), what the
                template refuses, or what `image.reader` refuses.
        """
        try:
            shown = shown_of(sample, self.tiler)
            rows = [count_rows(one.grid, self.side) for one in shown]
            fitted = fit_turns(
                tell_times(sample, shown),
                self.template,
                self.tokenizer,
                picture_lengths=rows,
                max_length=self.max_length,
                too_long=self.too_long,
                reply=reply,
            )
            slots = fitted.encoded.slots
            tiles = self._cut([shown[slot] for slot in slots])
        except SampleError as error:
            if error.sample_id is not None:
                raise
            raise SampleError(error.reason, error.message, sample_id=sample.id) from error
        encoded = fitted.encoded
        return Example(
            seating=Seating(encoded.token_ids, encoded.trainable, tuple(shown[slot].grid for slot in slots), sample.id),
            tiles=tiles,
            length=fitted.length,
            num_targets=int(np.count_nonzero(encoded.trainable[1:])),
            tags=sample.tags,
            dropped_turns=fitted.dropped_turns,
            sample=sample,
        )

    def shown(self, sample: Sample) -> list[Shown]:
        """How each picture and clip of `sample` will be cut, and which frames are looked at; no pixel is read."""
        return shown_of(sample, self.tiler)

    def _cut(self, shown: Sequence[Shown]) -> NDArray[np.uint8]:
        """uint8 [n, 3, S, S], the pictures and clips that are shown, in the order of their places."""
        side = self.tiler.spec.image_size
        tiles = np.empty((sum(one.grid.num_tiles for one in shown), 3, side, side), np.uint8)
        start = 0
        for one in shown:
            end = start + one.grid.num_tiles
            if isinstance(one.grid, ClipGrid):
                for number, frame in enumerate(one.pictures, start):
                    tiles[number] = self.tiler.cut_frame(read_pixels(frame))
            else:
                cut, grid = self.tiler.cut(read_pixels(one.pictures[0]), alone=one.alone)
                if grid != one.grid:
                    raise SampleError(
                        "unreadable_image",
                        f"picture {one.pictures[0].name!r}: declares {one.grid.size} pixels, but has {grid.size}",
                    )
                tiles[start:end] = cut
            start = end
        return tiles


class Fitted(NamedTuple):
    """A conversation as far as it fits. `dropped_turns` counts both sides."""

    conversation: Conversation
    encoded: Encoded
    length: int
    dropped_turns: int


def fit_turns(
    sample: Sample,
    template: ConversationTemplate,
    tokenizer: Any,
    *,
    picture_lengths: Sequence[int],
    max_length: int | None,
    too_long: str = "drop_turns",
    reply: bool = False,
) -> Fitted:
    """The sample's conversation, rendered, tokenised and brought to at most `max_length` positions; no pixel is read.

    `picture_lengths` says how many positions each of the sample's pictures takes. Never cut: a turn, a picture, a prompt.
    """
    _check_sample(sample, reply)

    def take(num_turns: int) -> Fitted:
        turns = Conversation(sample.conversation.messages[:num_turns], sample.conversation.system)
        encoded = encode(
            template.render(turns, reply=reply),
            tokenizer,
            tokenisation=template.tokenisation,
            learnt_everywhere=template.learnt_everywhere,
        )
        _check_places(turns, encoded)
        length = len(encoded.token_ids) - len(encoded.slots) + sum(picture_lengths[slot] for slot in encoded.slots)
        return Fitted(turns, encoded, length, len(sample.conversation.messages) - num_turns)

    num_turns = len(sample.conversation.messages)
    best = whole = take(num_turns)
    if max_length is not None and whole.length > max_length:
        if too_long != "drop_turns" or reply:
            raise _too_long(whole, max_length, "; expected a shorter one")
        best = take(2)
        if best.length > max_length:
            raise _too_long(best, max_length, " with its first question and answer alone")
        fits, exceeds = 1, num_turns // 2  # in pairs; the length grows with each
        while exceeds - fits > 1:
            middle = (fits + exceeds) // 2
            candidate = take(2 * middle)
            if candidate.length <= max_length:
                best, fits = candidate, middle
            else:
                exceeds = middle
    # Nothing comes before the first token, so it cannot be predicted.
    if not reply and not best.encoded.trainable[1:].any():
        raise SampleError("no_targets", "has no token that could be learnt; expected an answer of the assistant")
    return best


def _too_long(fitted: Fitted, max_length: int, when: str) -> SampleError:
    pictures = fitted.length - (len(fitted.encoded.token_ids) - len(fitted.encoded.slots))
    return SampleError(
        "too_long",
        f"takes {fitted.length} positions ({pictures} of them for pictures), more than max_length {max_length}{when}",
    )


def _check_sample(sample: Sample, reply: bool) -> None:
    messages = sample.conversation.messages
    shown = [part.index for message in messages for part in message.parts if isinstance(part, ImageSlot)]
    if sorted(shown) != list(range(len(sample.images))):
        found = f"places for {len(shown)} pictures" if len(set(shown)) == len(shown) else f"places for the pictures {shown}"
        raise SampleError(
            "image_count",
            f"its text has {found}, and it comes with {len(sample.images)}; expected one place for each picture",
        )
    if not messages:
        raise SampleError("bad_turns", "has no turns; expected a question and an answer")
    for turn, message in enumerate(messages):
        if message.role == "assistant" and not message.text.strip():
            raise SampleError("empty_answer", f"turn {turn}, an answer, is empty; nothing could be learnt from it")
    if not reply and messages[-1].role != "assistant":
        raise SampleError("bad_turns", f"ends with the turn of the {messages[-1].role}; expected an answer of the assistant")


def _check_places(conversation: Conversation, encoded: Encoded) -> None:
    """A template may move pictures, but must neither lose nor repeat one."""
    shown = [part.index for message in conversation.messages for part in message.parts if isinstance(part, ImageSlot)]
    if sorted(encoded.slots) != sorted(shown):
        raise SampleError("image_count", f"the template shows the pictures {list(encoded.slots)}; expected {shown}, each once")
