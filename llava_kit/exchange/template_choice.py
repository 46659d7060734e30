"""Which conversation template a foreign folder speaks: by its chat template, or by its language model and special tokens.

A chat template (jinja, of the processor or the tokenizer) is rendered over a few conversations and compared with ours, word for
word. The template that writes the same is taken; for one that nobody here writes, `tokenizer_chat` takes the jinja text itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from ..assemble.parts import build_part
from ..core.checkpoint import quiet_transformers, read_json
from ..core.conversation import Conversation, ImageSlot, Message, Segment
from ..core.template import ConversationTemplate
from ..errors import CheckpointError, LlavaKitError, PluginError, UnsafeError, first_line
from ..recipe.schema import Part
from ..registry.manager import default_registry
from .preprocessor import PROCESSOR_FILE

OWN = "tokenizer_chat"
_PLACE = "<image>"

# Folders without a chat template: a token that only one family's format uses, and the template that LLaVA's own code gives it.
_BY_TOKEN = (("<|start_header_id|>", "llava_llama_3"), ("<start_of_turn>", "gemma_instruct"))
_BY_TYPE = {"llama": "v1", "mistral": "mistral_instruct", "qwen2": "qwen_1_5", "gemma": "gemma_instruct", "mpt": "mpt"}
# With <|im_start|>: LLaVA writes ChatML without line breaks on Llama and Mistral (Yi-34B, Hermes), with them on Qwen.
_CHATML = {"llama": "chatml_direct", "mistral": "chatml_direct", "mpt": "mpt"}


def choose_template(folder: Path, model_type: str, *, wanted: str | None, tokenisation: str) -> tuple[Part, str]:
    """The template for a folder with a tokenizer, and in words how it was decided.

    `model_type` is the language model's. With `tokenisation` `whole` (folders of transformers) the folder's chat template is
    LLaVA's own and decides; with `chunks` (the original's folders) it is the language model's, which LLaVA was not trained
    with: it only decides where the language model and its tokens do not.

    Raises `PluginError` for a `wanted` template that nobody has, and where nothing decides.
    """
    jinja = find_chat_template(folder)
    if wanted is not None:
        return _part(wanted, tokenisation, jinja=jinja), f"template {wanted}: as asked"
    part, reason, ruled = None, "", _by_rule(added_tokens(folder), model_type)
    if jinja is not None and (tokenisation == "whole" or ruled is None):
        part, reason = _by_chat_template(folder, jinja, tokenisation)
    if part is None:
        if ruled is None:
            raise PluginError(
                f"{folder}: {reason or 'found no chat template'}, and a language model ({model_type}) of which no template is "
                "known; name one with the option `template`"
            )
        name, rule = ruled
        part, reason = _part(name, tokenisation), f"{reason}; {rule}" if reason else rule
    return part, f"template {part.type}: {reason}; another is chosen with the option `template`"


def find_chat_template(folder: Path) -> str | None:
    """The folder's chat template, where it has one: the processor's before the tokenizer's, as transformers takes them."""
    for file in (PROCESSOR_FILE, "chat_template.json", "chat_template.jinja", "tokenizer_config.json"):
        path = folder / file
        if not path.is_file():
            continue
        if path.suffix == ".jinja":
            return path.read_text(encoding="utf-8", errors="replace")
        found = read_json(path).get("chat_template")
        if isinstance(found, list):  # several by name
            found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        if isinstance(found, dict):
            found = found.get("default")
        if isinstance(found, str) and found:
            return found
    return None


def _by_chat_template(folder: Path, jinja: str, tokenisation: str) -> tuple[Part | None, str]:
    """The template that writes what the jinja text writes, and why it was taken; None when there is none, and why."""
    tokenizer = _load_tokenizer(folder)
    own = _part(OWN, tokenisation, jinja=jinja)
    chat, trouble = build_part("template", own), None
    try:
        theirs = _their_texts(chat, tokenizer)
        chat.for_tokenizer(tokenizer)
    except UnsafeError as error:
        return None, f"the folder's chat template is not used ({error})"
    except LlavaKitError as error:
        trouble = str(error).partition(";")[0]
    candidates = [(part, _our_texts(part, tokenizer)) for part in _candidates(tokenisation)]
    for part, texts in candidates:
        if _same(texts, theirs):
            return part, "it writes what the folder's chat template writes"
    if trouble is None:
        return own, "the folder's own chat template, which writes what no other template here writes"
    for part, texts in candidates:
        if _same(texts[:2], theirs[:2]):
            return (
                part,
                f"it writes a first question as the folder's chat template does, which cannot be used itself ({trouble})",
            )
    return None, f"the folder's chat template cannot be used ({trouble})"


_ASK, _ANSWER, _AGAIN = "What is it?", "A cat.", "Why?"
_PICTURE = (ImageSlot(0), "\n", _ASK)
# Conversations (turns of the user and the assistant, the user first) and a system text.
_PROBES: tuple[tuple[tuple[tuple[str | ImageSlot, ...], ...], str | None], ...] = (
    ((_PICTURE,), None),
    (((_ASK,),), None),
    ((_PICTURE, (_ANSWER,), (_AGAIN,)), None),
    ((_PICTURE, (_ANSWER,)), None),
    ((_PICTURE,), "Be brief."),
)


def _same(ours: list[str | None], theirs: list[str | None]) -> bool:
    """What theirs can say, ours says alike; a first question both must be able to say. Space at the end does not count."""
    if ours[0] is None or theirs[0] is None:
        return False
    return all(a is not None and a.rstrip() == b.rstrip() for a, b in zip(ours, theirs) if b is not None)


def _candidates(tokenisation: str) -> Iterator[Part]:
    """Every template that says its text without a tokenizer, as it is and without its system text."""
    entries = [entry for entry in default_registry().entries("template") if entry.name not in (OWN, "plain")]
    preferred = {name: place for place, name in enumerate(dict.fromkeys((*_BY_TYPE.values(), *_CHATML.values())))}
    for entry in sorted(entries, key=lambda entry: (preferred.get(entry.name, len(preferred)), entry.name)):
        yield _part(entry.name, tokenisation)
        if entry.options is not None and "system" in entry.options.model_fields:
            yield _part(entry.name, tokenisation, system="")


def _our_texts(part: Part, tokenizer: Any) -> list[str | None]:
    template = build_part("template", part).for_tokenizer(tokenizer)
    return [_our_text(template, tokenizer, *probe) for probe in _PROBES]


def _our_text(template: ConversationTemplate, tokenizer: Any, turns: Any, system: str | None) -> str | None:
    roles: tuple[Any, ...] = ("user", "assistant")
    messages = tuple(Message(roles[number % 2], parts) for number, parts in enumerate(turns))
    try:
        pieces = template.render(Conversation(messages, system), reply=len(turns) % 2 == 1)
    except LlavaKitError:
        return None
    return _without_start("".join(piece.text if isinstance(piece, Segment) else _PLACE for piece in pieces), tokenizer)


def _their_texts(chat: Any, tokenizer: Any) -> list[str | None]:
    """What the chat template makes of the probes; contents as parts, or as texts where it takes no parts."""
    asked = [_messages(content, *probe) for probe in _PROBES for content in (_as_parts, _as_text)]
    written = chat.write(tokenizer, asked)
    # Parts are at times written out as Python writes them.
    usable = [None if text is None or "'type'" in text else _without_start(text, tokenizer) for text in written]
    return [usable[place] if usable[place] is not None else usable[place + 1] for place in range(0, len(usable), 2)]


def _messages(content: Callable[..., Any], turns: Any, system: str | None) -> tuple[list[dict[str, Any]], bool]:
    """A probe as transformers has conversations, and whether it ends where an answer begins."""
    messages = [{"role": ("user", "assistant")[number % 2], "content": content(parts)} for number, parts in enumerate(turns)]
    first = [] if system is None else [{"role": "system", "content": content((system,))}]
    return [*first, *messages], len(turns) % 2 == 1


def _as_parts(parts: tuple[str | ImageSlot, ...]) -> list[dict[str, str]]:
    """Where a picture is a part of its own, the line break after it is the template's affair."""
    return [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts if part != "\n"]


def _as_text(parts: tuple[str | ImageSlot, ...]) -> str:
    return "".join(part if isinstance(part, str) else _PLACE for part in parts)


def _without_start(text: str, tokenizer: Any) -> str:
    """Without the beginning-of-sequence token, which a template may write itself or leave to the tokenizer."""
    return text.removeprefix(tokenizer.bos_token) if tokenizer.bos_token else text


def _part(name: str, tokenisation: str, *, system: str | None = None, jinja: str | None = None) -> Part:
    """Raises `PluginError` with the nearest names for a template that nobody has."""
    entry = default_registry().get("template", name)
    options: dict[str, Any] = {"tokenisation": tokenisation, "system": system}
    if name == OWN:
        options["template"] = jinja
    known = entry.options.model_fields if entry.options is not None else {}
    return Part(type=name, **{key: value for key, value in options.items() if key in known and value is not None})


def _by_rule(tokens: set[str], model_type: str) -> tuple[str, str] | None:
    """The template of LLaVA's own code for such a language model, and why."""
    if "<|im_start|>" in tokens:
        return _CHATML.get(model_type, "qwen_1_5"), f"its language model is {model_type}, and its tokenizer has <|im_start|>"
    for token, name in _BY_TOKEN:
        if token in tokens:
            return name, f"its tokenizer has {token}"
    name = _BY_TYPE.get(model_type)
    return None if name is None else (name, f"its language model is {model_type}")


def added_tokens(folder: Path) -> set[str]:
    """The tokens that were added to the folder's tokenizer, special ones among them, whichever of its files says so."""
    found = list(_read(folder, "tokenizer.json").get("added_tokens") or ())
    found += (_read(folder, "tokenizer_config.json").get("added_tokens_decoder") or {}).values()
    tokens = {str(token.get("content")) for token in found if isinstance(token, dict)}
    return tokens | set(_read(folder, "added_tokens.json"))


def _read(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name) if (folder / name).is_file() else {}


def _load_tokenizer(folder: Path) -> Any:
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(f"{folder}: its tokenizer cannot be read ({first_line(error)})") from error
