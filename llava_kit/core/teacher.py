"""Teacher: writes a conversation about a picture that it never saw, from the captions and boxes it is told. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import LlavaKitError
from .annotations import Annotations

ResponseType = Literal["conversation", "detail", "reasoning"]
RESPONSE_TYPES: tuple[ResponseType, ...] = ("conversation", "detail", "reasoning")


@dataclass(frozen=True)
class ChatMessage:
    """One message of the prompt: a role of `system`, `user` or `assistant`, and what it says."""

    role: str
    content: str


@dataclass(frozen=True)
class TeacherRequest:
    """One question to a teacher.

    key          a hash of all that the answer depends on: two requests with one key are the same request
    messages     the prompt: system text, worked examples, what is told of this picture
    annotations  the same as data; of a `conversation` the captions alone, as in the paper
    seed         for teachers that draw
    """

    key: str
    type: ResponseType
    messages: tuple[ChatMessage, ...]
    annotations: Annotations
    seed: int
    temperature: float = 0.7
    max_tokens: int = 1024


@dataclass(frozen=True)
class TeacherAnswer:
    """What a teacher said. `finish` is `stop` where it came to its end; tokens are counted by the teacher, 0 if it does not."""

    text: str
    model: str
    finish: str = "stop"
    input_tokens: int = 0
    output_tokens: int = 0


class TeacherError(LlavaKitError):
    """A request that was not answered. `transient`: the same request may be answered later, after `wait` seconds if given.

    `reason` is a short stable code (`rate_limit`, `server`, `connection`, `timeout`, `malformed`, `refused`, `credentials`).
    """

    def __init__(self, reason: str, message: str, *, transient: bool, wait: float | None = None):
        self.reason, self.transient, self.wait = reason, transient, wait
        super().__init__(message)


class Teacher(ABC):
    """Answers requests, many at a time. It makes no second try of its own: the caller counts and paces the tries."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What wrote the answers, for the provenance of each row: a model's name, or the teacher's own with its version."""

    @abstractmethod
    async def answer(self, request: TeacherRequest) -> TeacherAnswer:
        """The answer. Raises `TeacherError`; its text holds no key and no password."""

    def ready(self) -> None:  # noqa: B027 - most always are
        """Returns where it can be asked. Raises `LlavaKitError` where it cannot: a key that is missing."""

    def fingerprint(self) -> str:
        """All that its answers depend on beside a request: an answer is used again only where this is the same."""
        return self.name

    def batch_line(self, request: TeacherRequest) -> Mapping[str, Any]:
        """The request as a line of a file of requests, `custom_id` being its key. Raises `LlavaKitError`: it takes none."""
        raise LlavaKitError(f"the teacher {self.name!r} takes no files of requests; ask it directly")

    def batch_answer(self, line: Mapping[str, Any]) -> TeacherAnswer:
        """The answer in a line of a file of results. Raises `TeacherError` where the line says that there is none."""
        raise LlavaKitError(f"the teacher {self.name!r} writes no files of results; ask it directly")

    async def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Gives back connections; no request comes after it."""
