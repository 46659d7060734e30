"""What of a source cannot be used, until the audit says it better."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..core.conversation import Clip, ClipFolder, Sample
from ..core.source import DataSource
from ..data.loader import BadSample
from ..errors import SampleError
from ..image.reader import picture_size
from ..store.row import shown_pictures

Show = Callable[[int, int], None]


def check_samples(source: DataSource, count: int, show: Show) -> list[BadSample]:
    """Those of the first `count` samples that cannot be used: rows, turns, places of pictures, and the pictures' headers."""
    bad: list[BadSample] = []
    for _, sample in _samples(source, count, bad, show):
        try:
            _check(sample)
        except SampleError as error:
            bad.append(BadSample(sample.id, error.reason, error.message))
    return bad


def _check(sample: Sample) -> None:
    messages = sample.conversation.messages
    roles = [message.role for message in messages]
    if len(roles) < 2 or len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2):
        raise SampleError("bad_turns", f"found the turns {', '.join(roles) or 'none'}; expected user, assistant, ...")
    for turn, message in enumerate(messages):
        if message.role == "assistant" and not message.text.strip():
            raise SampleError("empty_answer", f"turn {turn}, an answer, is empty")
    if sorted(shown_pictures(sample)) != list(range(len(sample.images))):
        raise SampleError("image_count", f"has {len(sample.images)} pictures and {len(shown_pictures(sample))} places")
    for image in sample.images:
        if isinstance(image, Clip | ClipFolder):
            raise SampleError("video", f"shows the clip {image.name!r}; only pictures are exported")
        picture_size(image)


def _samples(source: DataSource, count: int, bad: list[BadSample], show: Show) -> Iterator[tuple[int, Sample]]:
    for index in range(count):
        try:
            yield index, source[index]
        except SampleError as error:
            bad.append(BadSample(error.sample_id or f"number {index}", error.reason, error.message))
        show(index + 1, count)
