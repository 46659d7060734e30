"""What is shown of a sample: how each picture is cut, which frames of a clip are looked at, and the sentence of their times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ..core.conversation import Clip, ClipFolder, ImageSlot, Message, Picture, Sample
from ..core.tiles import ClipGrid, TileGrid
from ..errors import SampleError
from ..image.reader import open_clip, picture_size

if TYPE_CHECKING:
    from ..image.tiling import Tiler


class Shown(NamedTuple):
    """One picture, or one clip, of a sample.

    pictures  the picture, or the frames of the clip that are looked at
    grid      how it is cut
    alone     it is the sample's only picture (clips do not count)
    sentence  what is said of a clip's times before the question, if the options ask for it
    """

    pictures: tuple[Picture, ...]
    grid: TileGrid | ClipGrid
    alone: bool = True
    sentence: str | None = None


def shown_of(sample: Sample, tiler: Tiler) -> list[Shown]:
    """What is shown of each picture and clip of `sample`; headers are read, pixels are not.

    Raises `SampleError` (`video`) for a clip where the tiling has no `video` block, and as `image.reader` does.
    """
    pictures = [image for image in sample.images if not isinstance(image, Clip | ClipFolder)]
    alone = len(pictures) < 2
    found = []
    for image in sample.images:
        if isinstance(image, Clip | ClipFolder):
            found.append(_clip(image, tiler))
        else:
            found.append(Shown((image,), tiler.plan(picture_size(image), alone=alone), alone))
    return found


def _clip(ref: Clip | ClipFolder, tiler: Tiler) -> Shown:
    video = tiler.options.video
    if video is None:
        raise SampleError("video", f"shows the clip {ref.name!r}; to read clips give the tiling a `video` block")
    clip = open_clip(ref)
    numbers = spread(len(clip.frames), video.frames)
    times = clip.times or tuple(map(float, range(len(clip.frames))))
    duration = clip.duration
    if duration is None:
        duration = times[-1] if clip.times else float(len(times))
    sentence = time_sentence([times[number] for number in numbers], duration) if video.time_instruction else None
    return Shown(tuple(clip.frames[number] for number in numbers), tiler.plan_clip(len(numbers)), sentence=sentence)


def spread(count: int, most: int) -> list[int]:
    """All of `count` frames, or `most` of them spread evenly from the first to the last, as `numpy.linspace` rounds down."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [0]
    step = (count - 1) / (most - 1)
    return [*(int(number * step) for number in range(most - 1)), count - 1]


def time_sentence(times: Sequence[float], duration: float) -> str:
    """LLaVA-NeXT-Video's `add_time_instruction`, to the letter (there is no space after the second full stop)."""
    places = ",".join(f"{time:.2f}s" for time in times)
    return (
        f"The video lasts for {duration:.2f} seconds, and {len(times)} frames are uniformly sampled from it. "
        f"These frames are located at {places}.Please answer the following questions related to this video."
    )


def tell_times(sample: Sample, shown: Sequence[Shown]) -> Sample:
    """`sample` with the sentence of each clip on a line of its own, right after the clip."""
    sentences = {index: one.sentence for index, one in enumerate(shown) if one.sentence is not None}
    if not sentences:
        return sample
    messages = []
    for message in sample.conversation.messages:
        parts: list[str | ImageSlot] = []
        for part in message.parts:
            parts.append(part)
            if isinstance(part, ImageSlot) and part.index in sentences:
                parts.append(f"\n{sentences[part.index]}\n")
        messages.append(Message(message.role, tuple(parts)))
    return replace(sample, conversation=replace(sample.conversation, messages=tuple(messages)))
