"""A conversation that remembers its turns: text and pictures in, text out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy

from ..core.conversation import Conversation, ImageBytes, ImageFile, ImagePixels, ImageRef, ImageSlot, Message, Sample
from ..errors import DataError, LlavaKitError
from ..image.colour import to_rgb
from ..model.sampling import Sampling
from .responder import Responder


class ChatSession:
    """Turns so far, and the next. The user's text is only ever text: `<image>` or a stop string in it has no power."""

    def __init__(self, responder: Responder, *, system: str | None = None):
        self.responder = responder
        self.system = system
        self.messages: list[Message] = []
        self.images: list[ImageRef] = []

    def ask(self, text: str, images: Sequence[Any] = (), sampling: Sampling | None = None) -> Iterator[str]:
        """The answer, piece by piece. A turn that fails (unreadable picture, prompt too long) leaves no trace.

        `images`: paths, bytes, PIL pictures, uint8 [H, W, 3] arrays or `ImageRef`s; each on its own line before the text.
        """
        refs = [as_image(image) for image in images]
        slots = [part for index in range(len(refs)) for part in (ImageSlot(len(self.images) + index), "\n")]
        question = Message("user", (*slots, text))
        messages = (*self.messages, question)
        everything = (*self.images, *refs)
        sample = Sample("chat", Conversation(messages, self.system), everything)
        answer = []
        for piece in self.responder.stream(sample, sampling or Sampling()):
            answer.append(piece)
            yield piece
        self.messages = [*messages, Message("assistant", ("".join(answer),))]
        self.images = list(everything)

    def clear(self) -> None:
        """Forget everything that was said and shown."""
        self.messages, self.images = [], []


def as_image(image: Any) -> ImageRef:
    """A path, bytes, a PIL picture or a uint8 array [H, W, 3] as an `ImageRef`; what is one already stays as it is."""
    if isinstance(image, ImageRef):
        return image
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        if not os.path.isfile(path):
            raise DataError(f"picture {path!r}: there is no such file")
        return ImageFile(path)
    if isinstance(image, (bytes, bytearray)):
        return ImageBytes(bytes(image))
    if hasattr(image, "convert") and hasattr(image, "size"):
        pixels = numpy.asarray(to_rgb(image))
        return ImagePixels(lambda: pixels, image.size, "picture")
    shape = getattr(image, "shape", None)
    if shape is not None and len(shape) == 3 and shape[2] == 3 and str(image.dtype) == "uint8":
        return ImagePixels(lambda: image, (shape[1], shape[0]), "array")
    found = (
        f"{type(image).__name__} of shape {tuple(shape)} and type {image.dtype}" if shape is not None else type(image).__name__
    )
    raise LlavaKitError(f"picture: found {found}; expected a path, bytes, a PIL picture, or a uint8 array [height, width, 3]")
