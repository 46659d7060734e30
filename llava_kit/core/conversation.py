"""What is said and shown: messages, pictures by reference, and the segments a template makes of them. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from ..errors import LlavaKitError
from .annotations import Annotations

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class ImageSlot:
    """The place of picture (or clip) number `index` of the sample."""

    index: int


@dataclass(frozen=True)
class ImageFile:
    """A picture in a file. With `root`, the file must lie under that folder (symbolic links resolved)."""

    path: str
    root: str | None = None

    @property
    def name(self) -> str:
        return self.path


@dataclass(frozen=True)
class ImageBytes:
    """A picture as the bytes of a picture file."""

    data: bytes = field(repr=False)
    name: str = "bytes"


@dataclass(frozen=True)
class ImagePixels:
    """A picture that is drawn when asked for: `render()` gives uint8 [height, width, 3]; `size` is (width, height)."""

    render: Callable[[], Any] = field(repr=False)
    size: tuple[int, int]
    name: str = "pixels"


@dataclass(frozen=True)
class ImageUrl:
    """A picture at an http(s) address. Nothing that reads pictures fetches it; `llava-kit data convert --allow-urls` does."""

    url: str

    @property
    def name(self) -> str:
        return shown_url(self.url)


def shown_url(url: str) -> str:
    """The URL as a message may show it: without user name, password, query and fragment, which may hold keys."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition(':')[0]}:..."
    secret = "?..." if parts.query or parts.fragment else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{secret}"[:200]


Picture = ImageFile | ImageBytes | ImagePixels | ImageUrl


@dataclass(frozen=True)
class Clip:
    """A clip as pictures of its frames, in order; one `ImageSlot` stands for the whole.

    `times` are the frames' places in seconds, `duration` the length of the clip. Without them a frame is taken to stand for a
    second, as LLaVA-NeXT samples videos.

    Raises `LlavaKitError` for a clip without frames, or with times that are not one for each frame and in order.
    """

    frames: tuple[Picture, ...]
    times: tuple[float, ...] | None = None
    duration: float | None = None
    name: str = "clip"

    def __post_init__(self):
        if not self.frames:
            raise LlavaKitError(f"clip {self.name!r}: found no frames; expected at least one picture")
        if self.times is not None and (len(self.times) != len(self.frames) or list(self.times) != sorted(self.times)):
            raise LlavaKitError(
                f"clip {self.name!r}: found {len(self.times)} times for {len(self.frames)} frames; expected one for each, "
                "in order"
            )


@dataclass(frozen=True)
class ClipFolder:
    """A clip as a folder of pictures, one for each frame, in the order of their names.

    With `root`, the folder must lie under that one (symbolic links resolved).
    """

    path: str
    root: str | None = None
    frames_per_second: float = 1.0

    @property
    def name(self) -> str:
        return self.path


ImageRef = Picture | Clip | ClipFolder


@dataclass(frozen=True)
class Message:
    """One turn: text and pictures in the order in which they stand."""

    role: Role
    parts: tuple[str | ImageSlot, ...]

    @property
    def text(self) -> str:
        """The text alone, pictures left out."""
        return "".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True)
class Conversation:
    """Turns in order. `system` replaces the template's own system text; None keeps it."""

    messages: tuple[Message, ...]
    system: str | None = None


@dataclass(frozen=True)
class Sample:
    """One row of a data source: a conversation, the pictures and clips its slots point to, and tags for statistics.

    Every `ImageSlot.index` is in `range(len(images))` and every picture is shown exactly once (`data.example` checks it).
    Tags that JSON can say are kept when a sample is written to disk; by custom `source` names the data set that a row is from,
    and `provenance` who wrote it. `annotations` are what is known of the first picture beside the conversation.
    """

    id: str
    conversation: Conversation
    images: tuple[ImageRef, ...] = ()
    tags: Mapping[str, Any] = field(default_factory=dict)
    annotations: Annotations = Annotations()


@dataclass(frozen=True)
class Segment:
    """A piece of the prompt.

    `trainable`: the model learns to say it. `special`: it comes from the template, so markers such as `</s>` in it are special
    tokens; in all other text they are letters, whoever wrote them.
    """

    text: str
    trainable: bool = False
    special: bool = False
