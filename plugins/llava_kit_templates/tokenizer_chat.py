"""`tokenizer_chat`: the tokenizer's own chat template as a conversation template; it is taken apart to find what is learnt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llava_kit.core.conversation import Conversation, ImageSlot, Message, Segment
from llava_kit.core.template import ConversationTemplate
from llava_kit.errors import LlavaKitError, SampleError, UnsafeError, suggest

from . import ChatOptions
from .chat_layout import (
    CLOSE,
    PLACEHOLDER,
    Mode,
    NoLayout,
    Reader,
    Shape,
    end_of_turn,
    fill,
    layout,
    messages_of,
    stand_ins,
    write,
)
from .sandbox import MAX_TEMPLATE, OutOfBounds, check_bounds, render
from .styles import Pieces, check_turns

# In this order a template is tried: what several can read gives the same text.
MODES: tuple[Mode, ...] = ("mixed", "parts", "text")
# A picture's text is looked for among special tokens so named; the first kind marks a picture's begin or end.
_AROUND_A_PICTURE = re.compile(r"</|start|begin|end|break|row|col|thumb", re.IGNORECASE)
_A_PICTURE = re.compile(r"image|img", re.IGNORECASE)
PROBE = Shape(False, (("user", "pt"), ("assistant", "t"), ("user", "t"), ("assistant", "t")))


def make_tokenizer_chat(options: ChatOptions) -> TokenizerChat:
    """The template that a recipe names, before it knows its tokenizer.

    Raises:
        LlavaKitError: two templates were given, or the file cannot be read.
    """
    if options.template is not None and options.template_file is not None:
        raise LlavaKitError("tokenizer_chat: found template and template_file; expected one of them, or none")
    text, origin = options.template, "template"
    if options.template_file is not None:
        origin = f"template_file {options.template_file!r}"
        try:
            with Path(options.template_file).open(encoding="utf-8") as file:
                text = file.read(MAX_TEMPLATE + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise LlavaKitError(f"tokenizer_chat, {origin}: cannot be read: {error}") from error
    return TokenizerChat(text=text, origin=origin, system=options.system or None, tokenisation=options.tokenisation)


@dataclass(frozen=True, kw_only=True)
class TokenizerChat(ConversationTemplate):
    """Says nothing until it knows its tokenizer."""

    text: str | None
    origin: str
    system: str | None = None
    tokenisation: Literal["chunks", "whole"] = "chunks"

    def for_tokenizer(self, tokenizer: Any) -> BoundChat:
        """Raises LlavaKitError for a chat template that is missing, takes too much, or cannot be taken apart."""
        text, origin = self.text, self.origin
        if text is None:
            text, origin = _own_template(tokenizer), "the tokenizer's chat template"
        try:
            reader = take_apart(text, tokenizer, with_system=self.system is not None)
        except OutOfBounds as error:
            raise UnsafeError(f"tokenizer_chat, {origin}: {error}; it is not used") from error
        except NoLayout as error:
            raise LlavaKitError(
                f"tokenizer_chat, {origin}: {error}; give another template (template or template_file), or use one of the "
                "formats (`llava-kit plugins list`)"
            ) from error
        stop = [reader.end.strip()]
        eos = getattr(tokenizer, "eos_token", None)
        stop += [eos] if eos and eos not in stop else []
        return BoundChat(reader=reader, system=self.system, stop=tuple(stop), tokenisation=self.tokenisation)

    def write(self, tokenizer: Any, asked: list[tuple[list[dict[str, Any]], bool]]) -> list[str | None]:
        """What the jinja text itself writes for each of some messages of transformers; None where it fails at them.

        With each goes whether the text shall end where an answer begins. Raises UnsafeError where one takes too much.
        """
        variables = _variables(tokenizer)
        text = _own_template(tokenizer) if self.text is None else self.text
        calls = [{**variables, "messages": messages, "add_generation_prompt": reply} for messages, reply in asked]
        try:
            check_bounds(text, calls)
        except OutOfBounds as error:
            raise UnsafeError(f"tokenizer_chat, {self.origin}: {error}; it is not used") from error
        return [_write_or_none(text, call) for call in calls]

    def render(self, conversation: Conversation, *, reply: bool = False) -> Pieces:
        raise LlavaKitError("tokenizer_chat: says nothing without its tokenizer; use what `for_tokenizer(tokenizer)` gives")


@dataclass(frozen=True, kw_only=True)
class BoundChat(ConversationTemplate):
    """A tokenizer's chat template. Learnt are the answers, what stands between them and their prompts, and what ends them."""

    reader: Reader
    stop: tuple[str, ...]
    system: str | None = None
    tokenisation: Literal["chunks", "whole"] = "chunks"

    def chat_template(self) -> str:
        return self.reader.template

    def render(self, conversation: Conversation, *, reply: bool = False) -> Pieces:
        check_turns(conversation, reply=reply)
        reader = self.reader
        system = (self.system if conversation.system is None else conversation.system) or ""
        turns = [_split(message, reader.mode) for message in conversation.messages]
        kinds = tuple(
            (message.role, "".join("t" if isinstance(part, str) else "p" for part in turn))
            for message, turn in zip(conversation.messages, turns)
        )
        shape = Shape(bool(system), kinds)
        shown = [system, *(part for turn in turns for part in turn)]
        as_written = PLACEHOLDER if reader.mode == "text" else reader.picture
        parts = [part if isinstance(part, str) else as_written for part in shown]
        try:
            pieces = layout(reader, shape, reply)
            written = write(reader, shape, parts, reply)
        except NoLayout as error:
            raise SampleError("bad_template", str(error)) from error
        pictures = {number for number, part in enumerate(shown) if isinstance(part, ImageSlot)}
        texts = fill(pieces, parts, pictures, written)
        rendered: Pieces = []
        for piece in pieces:
            if piece.number is None:
                rendered.append(Segment(piece.text, piece.trainable, special=True))
            elif isinstance(slot := shown[piece.number], ImageSlot):
                rendered.append(slot)
            else:
                rendered.append(Segment(texts[piece.number], piece.trainable))
        return rendered


def take_apart(text: str, tokenizer: Any, *, with_system: bool) -> Reader:
    """How to read this template.

    Raises:
        OutOfBounds: it is too large, or takes too much.
        NoLayout: it cannot be taken apart.
    """
    variables = _variables(tokenizer)
    probe = Shape(with_system, PROBE.turns)
    said = ["Be brief.", PLACEHOLDER, 'What\'s "it"?\n<b>', "A cat.\n - é", "Why?", "So."]
    calls = [
        {**variables, "messages": messages_of(mode, probe, said), "add_generation_prompt": reply}
        for mode in MODES
        for reply in (False, True)
    ]
    check_bounds(text, calls)
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    markers = tuple(sorted(token.content for token in added if token.special))
    told = "", False
    for mode in MODES:
        reader = Reader(text, tuple(sorted(variables.items())), mode, PLACEHOLDER, markers=markers)
        could_read = False
        try:
            if mode != "text":
                reader = reader._replace(picture=_picture(reader, tokenizer))
            written = stand_ins(reader, probe, False)
            could_read = True
            reader = reader._replace(end=_last_words(reader, written))
            as_written = [said[0], PLACEHOLDER if mode == "text" else reader.picture, *said[2:]]
            fill(layout(reader, probe, False), as_written, {1}, write(reader, probe, as_written, False))
            return reader
        except (NoLayout, SampleError) as error:
            # Of several reasons, that of a way in which the template takes contents at all.
            told = told if told[1] else (error.message if isinstance(error, SampleError) else str(error), could_read)
    raise NoLayout(told[0])


def _write_or_none(text: str, call: dict[str, Any]) -> str | None:
    try:
        return render(text, call)
    except Exception:  # a stranger's template may fail in any way
        return None


def _variables(tokenizer: Any) -> dict[str, Any]:
    """What a template may ask for besides the conversation."""
    named = getattr(tokenizer, "special_tokens_map", {})
    tokens = {name: str(token) for name, token in named.items() if not isinstance(token, (list, tuple))}
    return {**tokens, "tools": None, "documents": None}


def _picture(reader: Reader, tokenizer: Any) -> str:
    """What the template writes for a picture, as far as it is the picture's place."""
    with_picture = write(reader, Shape(False, (("user", "pt"),)), ["", "", "x"], True)
    without = write(reader, Shape(False, (("user", "t"),)), ["", "x"], True)
    own = getattr(tokenizer, "image_token", None)
    named = sorted(marker for marker in reader.markers if _A_PICTURE.search(marker))
    inner = [marker for marker in named if not _AROUND_A_PICTURE.search(marker)]
    for candidates in ([own] if own else [], [PLACEHOLDER], inner, named):
        found = [token for token in candidates if with_picture.count(token) - without.count(token) == 1]
        if len(found) == 1:
            return found[0]
    raise NoLayout(
        f"the chat template writes {with_picture[-80:]!r} for a picture and a text, in which no picture's place is known"
    )


def _last_words(reader: Reader, written: str) -> str:
    """What the template writes after the last answer, as far as it ends it."""
    after = written[written.rindex(CLOSE) + 1 :]
    end = end_of_turn(after, reader.markers)
    if not end.strip():
        found = repr(after) if after else "nothing"
        raise NoLayout(f"the chat template writes {found} after an answer: the model would never learn to stop")
    return end


def _own_template(tokenizer: Any) -> str:
    text = getattr(tokenizer, "chat_template", None)
    if isinstance(text, dict):
        if "default" not in text:
            raise LlavaKitError(f"tokenizer_chat: the tokenizer's chat templates have names; {suggest('default', text)}")
        text = text["default"]
    if not isinstance(text, str) or not text:
        raise LlavaKitError(
            "tokenizer_chat: this tokenizer has no chat template; give one (template or template_file), or use one of the "
            "formats (`llava-kit plugins list`)"
        )
    return text


def _split(message: Message, mode: Mode) -> list[str | ImageSlot]:
    """The parts of a turn, neighbouring texts as one.

    Where pictures are parts of their own, the line break that parts them from the text is the template's affair.
    """
    parts = list(_joined(message.parts))
    if mode == "text" or message.role != "user":
        return parts
    last = len(parts) - 1
    for place, part in enumerate(parts):
        if isinstance(part, str):
            if place > 0:
                part = part.removeprefix("\n")
            parts[place] = part.removesuffix("\n") if place < last else part
    return [part for part in parts if part != ""]


def _joined(parts: tuple[str | ImageSlot, ...]) -> Iterator[str | ImageSlot]:
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        if text:
            yield text
        yield part
        text = ""
    if text:
        yield text
