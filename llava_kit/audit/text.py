"""What is wrong with the turns of a sample: their order, what is empty, and what stands in the text and should not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from ..core.conversation import ImageSlot, Message, Sample
from .markers import Markers

Mistake = tuple[str, str]
"""Reason and message."""

# A turn of more letters is beyond the 32,768 tokens that even long-context tuning teaches at once (English: 4 letters a token).
MAX_LETTERS = 131_072
# A model that does not stop loops to the end of its answer, so the end is looked at; so many words of it.
TAIL_WORDS = 120
# What loops: so many times in a row a stretch of up to 20 words, or a single word or pair. Fewer are songs, lists and emphasis.
LONGEST_LOOP, TIMES, TIMES_SHORT = 20, 5, 12

_PLACEHOLDERS = re.compile(r"<image>|<video>")
# NUL, lone surrogates, U+FFFD, other controls (not tab, newline, carriage return), and marks that turn or hide text.
_ODD = re.compile(
    "(?P<null_character>\0)|(?P<lone_surrogate>[\ud800-\udfff])|(?P<replacement_character>\ufffd)"
    "|(?P<control_character>[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff])"
)
_ODD_SAID = {
    "null_character": "a NUL character",
    "lone_surrogate": "half of a character (a lone surrogate)",
    "replacement_character": "the replacement character U+FFFD",
    "control_character": "a control character",
}
# The first byte of a character of two or three bytes in UTF-8, read as Windows-1252, and what followed it.
_MISREAD = re.compile("[\xc2\xc3\xc5\xce\xcf\xd0\xd1\xe2][^\\x00-\\x7f]{1,2}")
_CANNOT = r"i (?:can(?:'|\u2019)?t|cannot|am unable to|am not able to)"
_REFUSAL = re.compile(
    r"\bas an? (?:ai )?language model\b|\bas an ai(?: model)?\b|\bi(?:'|\u2019)?m sorry,? but "
    + _CANNOT
    + r"\b|\b"
    + _CANNOT
    + r" "
    r"(?:see|view|access|process|assist|display|help with)\b|\bi do(?:n['\u2019]t| not) have (?:access to|the ability to)\b",
    re.IGNORECASE,
)
_SOURCE = re.compile(
    r"\b(?:the|these|given|provided|image|five) captions\b|\bcaption (?:says|mentions|describes|states)\b|\bbounding box"
    r"|\bthe (?:given|provided) (?:captions?|descriptions?|context|sentences?|information)\b",
    re.IGNORECASE,
)
# One of these, in lower case, stands in whatever the two find; to look for them first takes a tenth of the time.
_REFUSED_BY = ("language model", "as an ai", "i can", "i am unable", "i am not able", "i do")
_SOURCES = ("caption", "bounding box", "the given ", "the provided ")
# Letters in which a refusal begins; further on an answer may tell of somebody who cannot see.
REFUSED_WITHIN = 400


def find_mistakes(sample: Sample, markers: Markers, pattern: re.Pattern[str] | None = None) -> Iterator[Mistake]:
    """Everything that is wrong with the conversation of `sample`; `pattern` is `markers.pattern()`, where it is at hand."""
    messages = sample.conversation.messages
    yield from _order(messages)
    yield from _places(sample)
    if sample.tags.get("skipped_first_turn"):
        yield "answer_first", "its first turn is an answer that nobody asked for"
    found = pattern or markers.pattern()
    if sample.conversation.system:
        yield from _letters(sample.conversation.system, "the system text", markers, found, answer=False)
    pictures = bool(sample.images)
    for turn, message in enumerate(messages):
        text, answer = message.text, message.role == "assistant"
        where = f"turn {turn}, {'an answer' if answer else 'a question' if message.role == 'user' else 'a system text'},"
        if not text.strip():
            if answer:
                yield "empty_answer", f"{where} is empty"
            elif not any(isinstance(part, ImageSlot) for part in message.parts):
                yield "empty_question", f"{where} is empty"
            continue
        yield from _typed(text, where, answer, pictures)
        yield from _letters(text, where, markers, found, answer=answer)
        if answer:
            yield from _answer(text, where)
    yield from _repeats(messages)


def _order(messages: tuple[Message, ...]) -> Iterator[Mistake]:
    roles = [message.role for message in messages]
    if len(roles) < 2 or len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2):
        told = ", ".join(roles[:8]) + (f", ... ({len(roles)})" if len(roles) > 8 else "")
        yield "bad_turns", f"found the turns {told or 'none'}; expected user, assistant, user, assistant, ..."


def _places(sample: Sample) -> Iterator[Mistake]:
    shown = [part.index for message in sample.conversation.messages for part in message.parts if isinstance(part, ImageSlot)]
    if sorted(shown) == list(range(len(sample.images))):
        return
    never = sorted(set(range(len(sample.images))) - set(shown))
    twice = sorted({index for index in shown if shown.count(index) > 1})
    told = []
    for which, what in ((never, "never shown"), (twice, "shown twice")):
        if which:
            told.append(f"picture {', '.join(map(str, which[:8]))} is {what}")
    told.append(f"it has {len(sample.images)} pictures and {len(shown)} places for them")
    yield "image_count", "; ".join(told)


def _typed(text: str, where: str, answer: bool, pictures: bool) -> Iterator[Mistake]:
    if "<" not in text or (found := _PLACEHOLDERS.search(text)) is None:
        return
    if answer or pictures:
        yield "typed_placeholder", f"{where} says {found.group()} as letters"
    else:
        yield "lost_picture", f"{where} says {found.group()}, and the sample has no picture"


def _letters(text: str, where: str, markers: Markers, pattern: re.Pattern[str], *, answer: bool) -> Iterator[Mistake]:
    """What is wrong with text, whoever says it."""
    if len(text) > MAX_LETTERS:
        yield "long_text", f"{where} has {len(text):,} letters"
    told: dict[str, re.Match[str]] = {}
    for found in pattern.finditer(text):
        kind = markers.kinds[found.group()]
        told.setdefault(
            "role_marker" if kind == "role" else "stop_string" if kind == "stop" and answer else "special_token", found
        )
    for reason, found in told.items():
        yield reason, f"{where} holds {found.group()!r}: {around(text, *found.span())}"
    if not text.isascii() or not text.isprintable():
        kinds: set[str] = set()
        for found in _ODD.finditer(text):
            reason = found.lastgroup
            if reason is not None and reason not in kinds:
                kinds.add(reason)
                yield reason, f"{where} holds {_ODD_SAID[reason]}: {around(text, *found.span())}"
        if (place := _misread(text)) is not None:
            yield "mojibake", f"{where} was decoded wrongly: {around(text, *place)}"
    if (loop := _loop(text)) is not None:
        yield "looping_text", f"{where} says {around(loop, 0, 0)!r} again and again"


def _misread(text: str) -> tuple[int, int] | None:
    """Where a UTF-8 character stands as the two or three characters that its bytes are in Windows-1252."""
    if text.isascii():
        return None
    for found in _MISREAD.finditer(text):
        for end in (3, 2):
            try:
                if len(found.group()[:end].encode("cp1252").decode("utf-8")) == 1:
                    return found.start(), found.start() + end
            except UnicodeError:
                continue
    return None


def _loop(text: str) -> str | None:
    """What the last words of the text say again and again."""
    words = text.split()
    for tail in (words[-2 * TIMES_SHORT :], words[-TAIL_WORDS:]):
        # Half of the words are new in any prose; only the rest is worth the search.
        if len(tail) >= TIMES_SHORT and len(set(tail)) * 2 <= len(tail) and (found := _period(tail)) is not None:
            return found
    return None


def _period(words: list[str]) -> str | None:
    for period in range(1, LONGEST_LOOP + 1):
        times = TIMES if period > 2 else TIMES_SHORT
        if period * times > len(words):
            continue
        run = 0
        for place in range(len(words) - period):
            run = run + 1 if words[place] == words[place + period] else 0
            if run >= period * (times - 1):
                return " ".join(words[place + 1 : place + 1 + period])
    return None


def _answer(text: str, where: str) -> Iterator[Mistake]:
    # What refuses does so at its beginning; what was made from captions may say so anywhere.
    lowered = text.casefold()
    begins = lowered[: 2 * REFUSED_WITHIN]  # a letter may become two
    if any(words in begins for words in _REFUSED_BY) and (found := _REFUSAL.search(text, 0, REFUSED_WITHIN)) is not None:
        yield "refusal", f"{where} refuses: {around(text, *found.span())}"
    if any(words in lowered for words in _SOURCES) and (found := _SOURCE.search(text)) is not None:
        yield "mentions_source", f"{where} speaks of what it was made from: {around(text, *found.span())}"


def _repeats(messages: tuple[Message, ...]) -> Iterator[Mistake]:
    """The same question twice, and answers that are their questions."""
    asked: dict[str, int] = {}
    for turn, message in enumerate(messages):
        if message.role != "user" or (turn and any(isinstance(part, ImageSlot) for part in message.parts)):
            continue
        text = " ".join(message.text.split()).casefold()
        if not text:
            continue
        if text in asked:
            yield "repeated_question", f"turns {asked[text]} and {turn} ask the same: {around(message.text, 0, 0)}"
        asked.setdefault(text, turn)
    for turn, (question, answer) in enumerate(pairwise(messages)):
        if (question.role, answer.role) != ("user", "assistant"):
            continue
        words = answer.text.split()
        if len(words) >= 3 and words == question.text.split():
            yield "echoed_question", f"turn {turn + 1} says what turn {turn} asks: {around(answer.text, 0, 0)}"


def around(text: str, start: int, end: int, width: int = 32) -> str:
    """The place in the text with a little of what stands around it, in ASCII where a terminal could not show it."""
    first, last = max(0, start - width), min(len(text), max(end, start + width) + width)
    shown = "".join(
        letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text[first : min(last, first + 4 * width)]
    )
    return f"{'…' if first else ''}{shown}{'…' if last < len(text) else ''}"
