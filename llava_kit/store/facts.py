"""Plain facts about a sample, for checks, pages and comparisons of mixtures: counts that need no model and no decoded pixel."""

from __future__ import annotations

from typing import NamedTuple

from ..core.conversation import Clip, ClipFolder, Sample
from ..errors import SampleError
from ..image.reader import picture_size


class SampleFacts(NamedTuple):
    """Counts of one sample. Words are what stands between spaces; `sizes`: (width, height) of each readable picture."""

    source: str
    num_turns: int
    question_words: int
    answer_words: int
    num_pictures: int
    num_clips: int
    num_boxes: int
    sizes: tuple[tuple[int, int], ...]


def facts_of(sample: Sample, *, sizes: bool = True) -> SampleFacts:
    """The facts of `sample`; with `sizes` the headers of its pictures are read, and those that cannot be are left out."""
    messages = sample.conversation.messages
    clips = sum(isinstance(image, Clip | ClipFolder) for image in sample.images)
    return SampleFacts(
        source=source_of(sample),
        num_turns=len(messages),
        question_words=sum(len(message.text.split()) for message in messages if message.role == "user"),
        answer_words=sum(len(message.text.split()) for message in messages if message.role == "assistant"),
        num_pictures=len(sample.images) - clips,
        num_clips=clips,
        num_boxes=len(sample.annotations.boxes),
        sizes=tuple(_sizes(sample)) if sizes else (),
    )


def source_of(sample: Sample) -> str:
    """The data set that a sample is from: its tag `source`, or `unnamed`."""
    return str(sample.tags.get("source", "unnamed"))


def _sizes(sample: Sample):
    for image in sample.images:
        if not isinstance(image, Clip | ClipFolder):
            try:
                yield picture_size(image)
            except SampleError:
                continue
