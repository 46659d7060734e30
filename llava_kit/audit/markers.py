"""Which strings in somebody's text would be taken for marks of the prompt: a list of the usual ones, or a recipe's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..core.conversation import Conversation, Message, Segment
from ..core.template import ConversationTemplate
from ..errors import SampleError

# Special tokens of Llama 1 to 3, Mistral, Vicuna, Qwen and others with ChatML, Gemma, Phi, and LLaVA's own.
_SPECIAL = (
    "<s>",
    "</s>",
    "<unk>",
    "<pad>",
    "<bos>",
    "<eos>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
    "<|image|>",
    "<image_pad>",
    "<im_start>",
    "<im_end>",
    "<im_patch>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
)
_ROLES = (
    "USER:",
    "ASSISTANT:",
    "###Human:",
    "### Human:",
    "###Assistant:",
    "### Assistant:",
    "### Instruction:",
    "### Response:",
)


@dataclass(frozen=True)
class Markers:
    """Strings that should not stand in anybody's text. `stop`: at which replies end, looked for in answers."""

    stop: tuple[str, ...] = ()
    special: tuple[str, ...] = _SPECIAL
    roles: tuple[str, ...] = _ROLES

    def pattern(self) -> re.Pattern[str]:
        """Finds any of them; `kinds` says what was found. Without groups it is twenty times as fast: most text has none."""
        # Of each kind the longest first, so that none hides behind its own beginning.
        ordered = [text for found in (self.stop, self.special, self.roles) for text in sorted(found, key=len, reverse=True)]
        return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Which of `stop`, `special` and `role` each string is."""
        return {
            **dict.fromkeys(self.roles, "role"),
            **dict.fromkeys(self.special, "special"),
            **dict.fromkeys(self.stop, "stop"),
        }


def markers_of(template: ConversationTemplate, tokenizer: Any) -> Markers:
    """A template's and a tokenizer's own, beside the usual ones."""
    stop = tuple(text for text in template.stop if text.strip())
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    found = {token.content for token in added if token.special and token.content.strip()}
    special = tuple(sorted({*_SPECIAL, *found} - set(stop)))
    roles = tuple(sorted({*_ROLES, *_roles(template)} - set(stop) - set(special)))
    return Markers(stop, special, roles)


def _roles(template: ConversationTemplate) -> set[str]:
    """The words by which a template names a speaker, as in `USER: `: short pieces of its own that end in a colon."""
    turns = Conversation((Message("user", ("a",)), Message("assistant", ("b",))), "")
    try:
        pieces = template.render(turns)
    except SampleError:
        return set()
    texts = [piece.text for piece in pieces if isinstance(piece, Segment) and piece.special]
    words = {line.strip() for text in texts for line in re.findall(r"\S[^\n]*?:", text)}
    return {word for word in words if word.endswith(":") and 3 <= len(word) <= 24 and word.upper() == word}
