"""Segments become token ids, each with the flag of the segment in which it begins: labels by construction, nothing searched.

By `chunks`, text between two pictures is joined and tokenised once, as LLaVA's own `tokenizer_image_token` does it: each
stretch on its own, the beginning-of-sequence token only at the very start, never an end-of-sequence token that nobody wrote.
As a `whole`, a picture's place is one more special token in the text, as in the processors of transformers. Markers such as
`</s>` are special tokens in `special` segments and letters everywhere else.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from ..core.conversation import ImageSlot, Segment
from ..errors import LlavaKitError, SampleError
from ..splice.build import IMAGE

# Stand-ins for markers are built around a character of the last private-use plane, one that the text at hand does not hold.
LAST_PRIVATE_CHARACTER = 0x10FFFD
# The place of a picture in text that is tokenised as a whole. Whoever types it types letters, as with any marker.
PICTURE = f"{chr(LAST_PRIVATE_CHARACTER)}picture{chr(LAST_PRIVATE_CHARACTER)}"


class Encoded(NamedTuple):
    """What `encode` gives back.

    token_ids  int64 [n]  with IMAGE at the place of each picture
    trainable  bool [n]   True where the token begins in a trainable segment; False at pictures
    slots                 which picture stands at each of those places, in order
    """

    token_ids: NDArray[np.int64]
    trainable: NDArray[np.bool_]
    slots: tuple[int, ...]


_HALF = re.compile("[\ud800-\udfff]")


def encode(
    pieces: Sequence[Segment | ImageSlot],
    tokenizer: Any,
    *,
    tokenisation: str = "chunks",
    learnt_everywhere: tuple[str, ...] = (),
) -> Encoded:
    """The token ids of a rendered conversation, and which of them the model learns to say.

    `tokenizer` is a fast tokenizer (`PreTrainedTokenizerFast`). What is cached for it here assumes that its vocabulary does not
    change any more. `tokenisation` and `learnt_everywhere` are the template's (`core.template` says what they mean).

    Raises:
        LlavaKitError: the tokenizer is not a fast one.
        SampleError: the text holds half of a character (`lone_surrogate`), which no tokenizer takes.
    """
    whole = tokenisation == "whole"
    codec = _codec(tokenizer, whole)
    try:
        ids, flags = codec.encode_whole(pieces) if whole else codec.encode_chunks(pieces)
    except TypeError:  # what the tokenizers library says to half of a character; looked for only then
        half = next((found for piece in pieces if isinstance(piece, Segment) and (found := _HALF.search(piece.text))), None)
        if half is None:
            raise
        raise SampleError(
            "lone_surrogate",
            f"its text holds half of a character ({half[0]!a}); decode the source again, as UTF-8 or UTF-16",
        ) from None
    token_ids = np.array(ids, np.int64)
    trainable = np.frombuffer(flags, np.bool_)
    if learnt_everywhere:
        trainable = trainable | np.isin(token_ids, codec.ids_of(learnt_everywhere))
    return Encoded(token_ids, trainable, tuple(piece.index for piece in pieces if isinstance(piece, ImageSlot)))


_codecs: WeakKeyDictionary[Any, dict[bool, _Codec]] = WeakKeyDictionary()


def _codec(tokenizer: Any, whole: bool = False) -> _Codec:
    codecs = _codecs.setdefault(tokenizer, {})
    if whole not in codecs:
        codecs[whole] = _Codec(tokenizer, whole)
    return codecs[whole]


class _Codec:
    """A tokenizer's own copy for this room: no truncation, no padding, offsets as the model's pieces have them.

    With `whole` it knows one more special token, the place of a picture.
    """

    def __init__(self, tokenizer: Any, whole: bool = False):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise LlavaKitError(
                f"tokenizer {type(tokenizer).__name__}: found one without character offsets; expected a fast tokenizer "
                "(PreTrainedTokenizerFast), because the labels are made from offsets; convert it, or load it with AutoTokenizer"
            )
        self.description: dict[str, Any] = json.loads(backend.to_str())
        self.prefix = _prefix(backend, self.description)
        # The post-processor of byte-level tokenizers moves the offsets of pieces that begin with a space.
        self.description.update(truncation=None, padding=None, post_processor=None)
        self.plain = Tokenizer.from_str(json.dumps(self.description))
        if whole:
            self.plain.add_special_tokens([AddedToken(PICTURE, special=True, normalized=False)])
            self.description = json.loads(self.plain.to_str())
        self.picture = self.plain.token_to_id(PICTURE) if whole else None
        added = self.description["added_tokens"]
        self.specials = frozenset(token["content"] for token in added if token["special"])
        self.ordinary = frozenset(token["content"] for token in added if not token["special"])
        self.markers_in = lru_cache(maxsize=1024)(self._markers_in)
        self.pattern = lru_cache(maxsize=8)(_pattern)
        self.guarded = lru_cache(maxsize=4)(self._guarded)
        self.ids_of = lru_cache(maxsize=8)(self._ids_of)

    def encode_chunks(self, pieces: Sequence[Segment | ImageSlot]) -> tuple[list[int], bytearray]:
        """The ids of a rendering and one flag a token, each stretch between two pictures on its own."""
        ids: list[int] = []
        flags = bytearray()
        stretch: list[Segment] = []
        first = True
        for piece in (*pieces, None):
            if isinstance(piece, Segment):
                if piece.text:
                    stretch.append(piece)
                continue
            self._append(stretch, ids, flags, first)
            if piece is not None:
                ids.append(IMAGE)
                flags.append(0)
            stretch, first = [], False
        return ids, flags

    def encode_whole(self, pieces: Sequence[Segment | ImageSlot]) -> tuple[list[int], bytearray]:
        """As `encode_chunks`, in one go."""
        places = [piece if isinstance(piece, Segment) else Segment(PICTURE, special=True) for piece in pieces]
        ids: list[int] = []
        flags = bytearray()
        self._append([piece for piece in places if piece.text], ids, flags, True)
        return [IMAGE if token == self.picture else token for token in ids], flags

    def _append(self, stretch: list[Segment], ids: list[int], flags: bytearray, first: bool) -> None:
        new_ids, runs = self.encode(stretch) if stretch else ([], [])
        if first:
            # A template that writes the beginning-of-sequence token itself (Llama 3) must not get a second one.
            written = bool(stretch) and stretch[0].special and new_ids[: len(self.prefix)] == self.prefix
            prefix = [] if written else self.prefix
            ids.extend(prefix)
            flags.extend(bytes(len(prefix)))
        before = len(ids)
        ids.extend(new_ids)
        flags.extend(bytes(len(new_ids)))
        for start, stop in runs:
            flags[before + start : before + stop] = b"\x01" * (stop - start)

    def _ids_of(self, texts: tuple[str, ...]) -> list[int]:
        """The tokens that are these texts; a text that is no single token (Llama 3's blank line, for some) has none.

        Asked after a letter, so that no space is put before them.
        """
        letter = self.plain.encode("a", add_special_tokens=False).ids
        found = (self.plain.encode("a" + text, add_special_tokens=False).ids for text in texts)
        return [ids[-1] for ids in found if len(ids) == len(letter) + 1 and ids[:-1] == letter]

    def encode(self, stretch: Sequence[Segment]) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of text without pictures, and the half-open runs of them that are trainable."""
        markers = self.specials
        for segment in stretch:
            if segment.special and self.ordinary:
                markers |= self.markers_in(segment.text)
        if _stray_marker(stretch, self.pattern(markers)):
            return self._encode_guarded(stretch, markers)
        found = self.plain.encode("".join([segment.text for segment in stretch]), add_special_tokens=False)
        return found.ids, _trainable_runs(found.offsets, stretch)

    def _markers_in(self, text: str) -> frozenset[str]:
        """Added tokens that are not special by declaration, but serve a template as its markers."""
        return frozenset(self.pattern(self.ordinary).findall(text))

    def _encode_guarded(self, stretch: Sequence[Segment], markers: frozenset[str]) -> tuple[list[int], list[tuple[int, int]]]:
        """As `encode`, for text in which somebody typed a marker: the template's markers travel as stand-ins."""
        text = "".join(segment.text for segment in stretch)
        private = next(
            chr(LAST_PRIVATE_CHARACTER - number) for number in count() if chr(LAST_PRIVATE_CHARACTER - number) not in text
        )
        guarded = self.guarded(markers, private)
        pattern = self.pattern(markers)
        disguised: list[Segment] = []
        for segment in _join_special(stretch):
            if segment.special:
                changed = pattern.sub(lambda match: guarded.stand_ins[match.group()], segment.text)
                segment = Segment(changed, segment.trainable, True)
            disguised.append(segment)
        found = guarded.tokenizer.encode("".join([segment.text for segment in disguised]), add_special_tokens=False)
        ids = [guarded.real_ids.get(token, token) for token in found.ids]
        return ids, _trainable_runs(found.offsets, disguised)

    def _guarded(self, markers: frozenset[str], private: str) -> _Guarded:
        """A tokenizer that reads no marker in text, and a stand-in for each marker that becomes the marker's id."""
        description = dict(self.description)
        # Only special tokens can be told to be letters, so the template's other markers are declared special here.
        description["added_tokens"] = added = [
            {**token, "special": token["special"] or token["content"] in markers} for token in description["added_tokens"]
        ]
        tokenizer = Tokenizer.from_str(json.dumps(description))
        tokenizer.encode_special_tokens = True
        stand_ins, real_ids, tokens = {}, {}, []
        for token in added:
            if token["content"] in markers:
                stand_in = stand_ins[token["content"]] = f"{private}{len(stand_ins)}{private}"
                flags = {name: token[name] for name in ("single_word", "lstrip", "rstrip", "normalized")}
                tokens.append((AddedToken(stand_in, special=False, **flags), token["id"]))
        tokenizer.add_tokens([token for token, _ in tokens])
        for token, real in tokens:
            real_ids[tokenizer.token_to_id(token.content)] = real
        return _Guarded(tokenizer, stand_ins, real_ids)


def _prefix(backend: Tokenizer, description: dict[str, Any]) -> list[int]:
    """What the tokenizer itself puts before a text: the beginning-of-sequence token, or nothing."""
    if backend.truncation is not None or backend.padding is not None:
        backend = Tokenizer.from_str(json.dumps({**description, "truncation": None, "padding": None}))
    body, whole = (backend.encode("a", add_special_tokens=special).ids for special in (False, True))
    starts = range(len(whole) - len(body) + 1)
    return whole[: next(start for start in starts if whole[start : start + len(body)] == body)]


class _Guarded(NamedTuple):
    tokenizer: Tokenizer
    stand_ins: dict[str, str]
    """Marker -> the text that stands in for it."""
    real_ids: dict[int, int]
    """The id of each stand-in -> the id of its marker."""


def _pattern(markers: Iterable[str]) -> re.Pattern[str]:
    """Matches any marker, the longest first, as tokenizers do."""
    longest_first = sorted(markers, key=lambda marker: (-len(marker), marker))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _join_special(stretch: Sequence[Segment]) -> list[Segment]:
    """Neighbours of equal flags as one segment, so that a marker written in two pieces is found."""
    joined: list[Segment] = []
    for segment in stretch:
        if joined and joined[-1].special == segment.special and joined[-1].trainable == segment.trainable:
            joined[-1] = Segment(joined[-1].text + segment.text, segment.trainable, segment.special)
        else:
            joined.append(segment)
    return joined


def _stray_marker(stretch: Sequence[Segment], pattern: re.Pattern[str]) -> bool:
    """Whether a marker stands anywhere else than inside the template's own text, be it across a border."""
    text = "".join([segment.text for segment in stretch])
    zones: list[tuple[int, int]] = []
    end = 0
    for segment in stretch:
        start, end = end, end + len(segment.text)
        if segment.special:
            zones.append((start, end))
    zone = 0
    for match in pattern.finditer(text):
        while zone < len(zones) and zones[zone][1] <= match.start():
            zone += 1
        if zone == len(zones) or match.start() < zones[zone][0] or match.end() > zones[zone][1]:
            return True
    return False


def _trainable_runs(offsets: Sequence[tuple[int, int]], stretch: Sequence[Segment]) -> list[tuple[int, int]]:
    """Which tokens begin in trainable segments. `offsets` are those of the joined text, in order."""
    runs: list[tuple[int, int]] = []
    end = 0
    for segment in stretch:
        start, end = end, end + len(segment.text)
        if segment.trainable:
            # A tuple of one sorts before every pair that begins with the same number: the first token from there on.
            runs.append((bisect_left(offsets, (start,)), bisect_left(offsets, (end,))))
    return runs
