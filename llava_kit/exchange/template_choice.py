"""Which conversation template a foreign folder speaks: by its chat template, or by its language model and special tokens."""

from __future__ import annotations

from pathlib import Path

from ..core.checkpoint import read_json
from ..errors import PluginError
from ..recipe.schema import Part
from ..registry.manager import default_registry

# Folders without a chat template: a token that only one family's format uses, and the template that LLaVA's own code gives it.
_BY_TOKEN = (
    ("<|start_header_id|>", "llava_llama_3"),
    ("<start_of_turn>", "gemma_instruct"),
)
_BY_TYPE = {"llama": "v1", "mistral": "mistral_instruct", "qwen2": "qwen_1_5", "gemma": "gemma_instruct", "mpt": "mpt"}


def choose_template(folder: Path, model_type: str, *, wanted: str | None, tokenisation: str) -> tuple[Part, str]:
    """The template for a folder with a tokenizer, and in words how it was decided. `model_type` is the language model's."""
    if wanted is not None:
        return _part(wanted, tokenisation), f"template {wanted}: as asked"
    name, reason = _by_rule(_special_tokens(folder), model_type)
    return _part(name, tokenisation), f"template {name}: {reason}; another is chosen with the option `template`"


def _part(name: str, tokenisation: str) -> Part:
    """Raises `PluginError` with the nearest names for a template that nobody has."""
    entry = default_registry().get("template", name)
    can_say = entry.options is not None and "tokenisation" in entry.options.model_fields
    return Part(type=name, tokenisation=tokenisation) if can_say else Part(type=name)


def _by_rule(tokens: set[str], model_type: str) -> tuple[str, str]:
    if "<|im_start|>" in tokens:
        name = "chatml_direct" if model_type in ("llama", "mistral") else "qwen_1_5"
        return name, f"no chat template in the folder, its tokenizer has <|im_start|> and its language model is {model_type}"
    for token, name in _BY_TOKEN:
        if token in tokens:
            return name, f"no chat template in the folder, and its tokenizer has {token}"
    name = _BY_TYPE.get(model_type)
    if name is None:
        raise PluginError(
            f"found no chat template, and a language model ({model_type}) of which no template is known; name one with the "
            "option `template`"
        )
    return name, f"no chat template in the folder, and its language model is {model_type}"


def _special_tokens(folder: Path) -> set[str]:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return set()
    found = read_json(path)
    return {str(token.get("content")) for token in found.get("added_tokens") or () if isinstance(token, dict)}
