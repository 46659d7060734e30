"""A jinja chat template taken apart: which of what it writes is its own, and where the texts and pictures it was given stand.

The template is rendered with stand-ins in place of every text. What stands between them is its own text, and nothing that
anybody says can be mistaken for it. Where an answer begins follows from the rendering that asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from llava_kit.errors import SampleError

from .sandbox import OutOfBounds, render

Mode = Literal["mixed", "parts", "text"]
PLACEHOLDER = "<image>"
# Stand-ins are numbers between two private-use characters: templates trim white space, and these are none.
OPEN, CLOSE = "\ue0f0", "\ue0f1"
_STAND_IN = re.compile(f"{OPEN}([0-9]+){CLOSE}")


class Reader(NamedTuple):
    """All that a rendering depends on, apart from the conversation. Hashable, so that layouts are worked out once.

    mode         how contents are given: all as lists of parts, only those with pictures (mixed), or as text
    picture      what the template writes where a picture stands
    end          what ends an answer
    markers      the tokenizer's special tokens
    """

    template: str
    variables: tuple[tuple[str, Any], ...]
    mode: Mode
    picture: str
    end: str = ""
    markers: tuple[str, ...] = ()


class Shape(NamedTuple):
    """A conversation without its words: whether it has a system text, and each turn as its role and a `t` or `p` a part."""

    system: bool
    turns: tuple[tuple[str, str], ...]


class Piece(NamedTuple):
    """`text` of the template; or, with a number, part `number` of the conversation (the system text is number 0)."""

    text: str
    number: int | None
    trainable: bool


class NoLayout(Exception):
    """Why the template cannot be taken apart."""


def messages_of(mode: Mode, shape: Shape, parts: Sequence[str]) -> list[dict[str, Any]]:
    """The conversation as chat templates take it. `parts[0]` is the system text; pictures have their text form."""
    messages: list[dict[str, Any]] = []
    if shape.system:
        messages.append({"role": "system", "content": [_text_part(parts[0])] if mode == "parts" else parts[0]})
    number = 1
    for role, kinds in shape.turns:
        said = parts[number : number + len(kinds)]
        number += len(kinds)
        if mode == "parts" or (mode == "mixed" and "p" in kinds):
            content: Any = [_text_part(part) if kind == "t" else {"type": "image"} for kind, part in zip(kinds, said)]
        else:
            content = "".join(said)
        messages.append({"role": role, "content": content})
    return messages


def _text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def write(reader: Reader, shape: Shape, parts: Sequence[str], reply: bool) -> str:
    """What the template writes for this conversation.

    Raises:
        NoLayout: the template refuses it or fails.
    """
    variables = dict(reader.variables)
    variables.update(messages=messages_of(reader.mode, shape, parts), add_generation_prompt=reply)
    try:
        return render(reader.template, variables)
    except OutOfBounds:
        raise
    except Exception as error:  # a stranger's template may fail in any way
        raise NoLayout(f"the chat template fails: {type(error).__name__}: {str(error)[:200]}") from error


@lru_cache(maxsize=2048)
def stand_ins(reader: Reader, shape: Shape, reply: bool) -> str:
    """The rendering with a stand-in for each text, each of which is there once. Pictures are stand-ins, too."""
    count = 1 + sum(len(kinds) for _, kinds in shape.turns)
    written = write(reader, shape, [f"{OPEN}{number}{CLOSE}" for number in range(count)], reply)
    kinds = "t" + "".join(kinds for _, kinds in shape.turns)
    if reader.mode != "text" and "p" in kinds:
        written = _mark_pictures(reader.picture, written, [number for number, kind in enumerate(kinds) if kind == "p"])
    found = [int(number) for number in _STAND_IN.findall(written)]
    expected = range(0 if shape.system else 1, count)
    if sorted(found) != list(expected):
        lost = [_name(shape, number) for number in expected if number not in found]
        twice = [_name(shape, number) for number in expected if found.count(number) > 1]
        told = [f"leaves out {', '.join(lost)}"] * bool(lost) + [f"writes {', '.join(twice)} more than once"] * bool(twice)
        raise NoLayout(f"the chat template {' and '.join(told) or 'changes texts'}")
    return written


def _mark_pictures(picture: str, written: str, numbers: list[int]) -> str:
    pieces = written.split(picture)
    if len(pieces) != len(numbers) + 1:
        raise NoLayout(f"the chat template writes {picture!r} {len(pieces) - 1} times for {len(numbers)} pictures")
    return pieces[0] + "".join(f"{OPEN}{number}{CLOSE}{piece}" for number, piece in zip(numbers, pieces[1:]))


def _name(shape: Shape, number: int) -> str:
    if number == 0:
        return "the system text"
    for turn, (role, kinds) in enumerate(shape.turns):
        if number <= len(kinds):
            return f"{'a picture' if kinds[number - 1] == 'p' else 'the text'} of turn {turn} ({role})"
        number -= len(kinds)
    raise AssertionError(number)


@lru_cache(maxsize=2048)
def layout(reader: Reader, shape: Shape, reply: bool) -> tuple[Piece, ...]:
    """The pieces of the rendering, in order. Learnt are the answers, what stands between them and their prompts, and their end.

    Raises:
        NoLayout: the template cannot be taken apart for conversations of this shape.
    """
    written = stand_ins(reader, shape, reply)
    if reply:
        # A space at the end of a prompt is the beginning of the answer's first token.
        return tuple(_pieces(written.rstrip(" "), []))
    spans = []
    number = 0
    for turn, (role, kinds) in enumerate(shape.turns):
        number += len(kinds)
        if role != "assistant":
            continue
        prompt = stand_ins(reader, Shape(shape.system, shape.turns[:turn]), True)
        if not written.startswith(prompt):
            given = written[: written.index(f"{OPEN}{number}{CLOSE}")]
            raise NoLayout(
                f"the chat template asks for turn {turn} with {_show(prompt[-40:])}, but writes a given answer after "
                f"{_show(given[-40:])}: the model would be asked otherwise than taught"
            )
        answer = f"{OPEN}{number}{CLOSE}"
        after = written.index(answer) + len(answer)
        literal = _STAND_IN.split(written[after:], maxsplit=1)[0]
        spans.append((len(prompt.rstrip(" ")), after + len(_end(reader, literal, turn))))
    return tuple(_pieces(written, spans))


def _end(reader: Reader, literal: str, turn: int) -> str:
    """How much of what follows an answer ends it."""
    if reader.end and literal.startswith(reader.end):
        return reader.end
    end = end_of_turn(literal, reader.markers)
    if not end or (reader.end and not any(marker in end for marker in reader.markers)):
        raise NoLayout(
            f"the chat template writes {_show(literal[:40]) if literal else 'nothing'} after the answer of turn {turn}, and "
            f"{_show(reader.end)} after a last one: nothing tells where a turn ends"
        )
    return end


def end_of_turn(literal: str, markers: Sequence[str]) -> str:
    """What follows an answer up to its first special token, that one included; all of it if there is none."""
    found = [(at, -len(marker)) for marker in markers if (at := literal.find(marker)) >= 0]
    if not found:
        return literal
    at, length = min(found)
    return literal[: at - length]


def _pieces(written: str, spans: list[tuple[int, int]]) -> Iterator[Piece]:
    at = 0
    for place, text in enumerate(_STAND_IN.split(written)):
        if place % 2:
            stop = at + len(text) + 2
            yield Piece("", int(text), any(start <= at < end for start, end in spans))
        else:
            stop = at + len(text)
            borders = sorted({at, stop, *(border for span in spans for border in span if at < border < stop)})
            for left, right in pairwise(borders):
                inside = any(start <= left < end for start, end in spans)
                yield Piece(text[left - at : right - at], None, inside)
        at = stop


def fill(pieces: Sequence[Piece], parts: Sequence[str], pictures: set[int], written: str) -> dict[int, str]:
    """The texts as the template has really written them (it may trim them), by number; `written` is that rendering.

    Raises:
        SampleError: it has written something else.
    """
    texts: dict[int, str] = {}
    at = 0
    for place, piece in enumerate(pieces):
        if piece.number is None:
            at += len(piece.text)
            continue
        after = ""
        if place + 1 < len(pieces):
            follower = pieces[place + 1]
            after = parts[follower.number] if follower.number in pictures else follower.text
        said = parts[piece.number]
        for text in [said] if piece.number in pictures else _trimmed(said):
            if written.startswith(text + after, at):
                texts[piece.number] = text
                at += len(text)
                break
    if _join(pieces, texts) not in (written, written.rstrip(" ")):
        raise SampleError("bad_template", "the chat template changes a text by more than the space around it")
    return texts


def _join(pieces: Sequence[Piece], texts: dict[int, str]) -> str:
    return "".join(piece.text if piece.number is None else texts.get(piece.number, "") for piece in pieces)


def _trimmed(text: str) -> list[str]:
    """A text as it is, and as templates trim it; what is taken away least comes first."""
    return [text, *(trim(space) for space in ("\n", None) for trim in (text.lstrip, text.rstrip, text.strip))]


def _show(text: str) -> str:
    return repr(_STAND_IN.sub("...", text))
