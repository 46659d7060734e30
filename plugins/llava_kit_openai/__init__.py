"""A teacher behind any OpenAI-compatible endpoint: OpenAI's own, or a server such as vLLM on this machine or another one.

The key is read from an environment variable when the teacher is built. It is in no recipe, file, log or error.
"""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from llava_kit import Options, hookimpl

# Letters, digits and _ alone: a key that was pasted here by mistake is none of these, and must not be repeated in an error.
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
# What the request itself says.
_OURS = frozenset(["model", "messages", "temperature", "seed", "max_tokens", "max_completion_tokens", "stream", "n"])


class OpenAiTeacherOptions(Options):
    """A language model behind an OpenAI-compatible endpoint; the key comes from the environment alone."""

    model: str = Field(min_length=1, description="as the endpoint calls it")
    base_url: str = Field("https://api.openai.com/v1", description="of the endpoint, to before /chat/completions")
    key_env: str | None = Field(
        "OPENAI_API_KEY", description="the environment variable that holds the key; null: the endpoint wants none"
    )
    allow_http: bool = Field(False, description="send the key over plain http to another machine, where anybody can read it")
    length_key: Literal["auto", "max_tokens", "max_completion_tokens"] = Field(
        "auto", description="how the longest answer is said; auto: max_completion_tokens to OpenAI, max_tokens to others"
    )
    leave_out: tuple[Literal["temperature", "seed"], ...] = Field((), description="what this model does not take")
    extra: dict[str, Any] = Field(default_factory=dict, description="more of the request's body, such as top_p")

    @field_validator("key_env")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not _VARIABLE.fullmatch(value):
            raise ValueError("expected the name of an environment variable such as OPENAI_API_KEY; never write a key here")
        return value

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise ValueError("is no address; expected one such as https://api.openai.com/v1") from None
        if not whole:
            raise ValueError("is no address; expected one such as https://api.openai.com/v1 or http://localhost:8000/v1")
        if "@" in parts.netloc:
            raise ValueError("holds a user name or a password; recipes are shared, so put the key into an environment variable")
        if parts.query or parts.fragment:
            raise ValueError("holds more than an address after its path; expected one such as https://api.openai.com/v1")
        return value.rstrip("/")

    @field_validator("extra")
    @classmethod
    def _is_not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_OURS & set(value)):
            raise ValueError(f"{', '.join(taken)} are said by the recipe's own keys, or cannot be changed")
        return value


def build_teacher(options: OpenAiTeacherOptions):
    """Return an `OpenAiTeacher`."""
    from .teacher import OpenAiTeacher, require_openai

    require_openai()

    return OpenAiTeacher(options)


@hookimpl
def register_teachers(register):
    register("openai", options=OpenAiTeacherOptions, build=build_teacher)
