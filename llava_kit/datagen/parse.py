"""A teacher's answer into questions and answers: exactly the form that it was asked for, or a reason why not."""

from __future__ import annotations

import re

from ..core.teacher import ResponseType

RULE = "==="
# Headings and lists of Markdown, and what a model says to its user before it begins.
_LISTED = re.compile(r"\s*(?:#{1,6} |[-*\u2022] |\d{1,2}[.)] |\*\*)")
_GREETING = re.compile(r"(?:sure|certainly|of course|absolutely)\b ?[,!.:]", re.IGNORECASE)
Turns = tuple[tuple[str, str], ...]


class Rejected(Exception):
    """An answer that is not taken. `reason` is a short stable code, `what` says what was found, for people and for repairs."""

    def __init__(self, reason: str, what: str):
        self.reason, self.what = reason, what
        super().__init__(f"{reason}: {what}")


def parse(text: str, type: ResponseType) -> Turns:
    """The (question, answer) pairs of a teacher's text; of a description one pair, whose question is empty.

    Raises:
        Rejected: `empty`, or `wrong_form`.
    """
    text = text.strip()
    if not text:
        raise Rejected("empty", "the answer is empty")
    if type == "detail":
        if any(line.strip() == RULE or _label(line) for line in text.splitlines()):
            raise Rejected("wrong_form", "a description holds lines of a dialogue; expected running text alone")
        if any(_LISTED.match(line) for line in text.splitlines()):
            raise Rejected("wrong_form", "a description holds headings or a list; expected running text alone")
        if _GREETING.match(text) or text.partition("\n")[0].endswith(":"):
            raise Rejected("wrong_form", "a description begins with words to its reader; expected running text alone")
        return (("", text),)
    pairs = _pairs(_blocks(text))
    if type == "reasoning" and len(pairs) != 1:
        raise Rejected("wrong_form", f"found {len(pairs)} questions; expected one")
    return pairs


def _blocks(text: str) -> list[list[str]]:
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip() == RULE:
            blocks.append([])
        else:
            blocks[-1].append(line)
    if not any(line.strip() for line in blocks[-1]):
        blocks.pop()  # after the last line of ===, which some teachers leave out
    return blocks


def _pairs(blocks: list[list[str]]) -> Turns:
    said = []
    for number, block in enumerate(blocks):
        label = "Answer" if number % 2 else "Question"
        said.append(_body(block, label, number + 1))
    if len(said) % 2:
        raise Rejected("wrong_form", "the last question has no answer")
    return tuple(zip(said[::2], said[1::2], strict=True))


def _body(block: list[str], label: str, number: int) -> str:
    lines = [line for line in block if line.strip()]
    first = lines[0].strip() if lines else ""
    if _label(first) != label:
        found = repr(first[:40]) if first else "nothing"
        raise Rejected("wrong_form", f"block {number} begins with {found}; expected '{label}:'")
    rest = [first[len(label) + 1 :].strip(), *(line.rstrip() for line in lines[1:])]
    if any(_label(line) for line in lines[1:]):
        raise Rejected("wrong_form", f"block {number} holds a second label; expected a line of {RULE} before it")
    body = "\n".join(line for line in rest if line).strip()
    if not body:
        raise Rejected("wrong_form", f"block {number}, after '{label}:', is empty")
    return body


def _label(line: str) -> str | None:
    line = line.strip()
    return next((label for label in ("Question", "Answer") if line.startswith(f"{label}:")), None)
