"""Pictures of nothing with captions and boxes, and a teacher that says what a test wants it to say."""

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

from llava_kit.core.annotations import Annotations, Box
from llava_kit.core.conversation import Conversation, ImagePixels, Sample
from llava_kit.core.source import DataSource
from llava_kit.core.teacher import Teacher, TeacherAnswer
from llava_kit.errors import SampleError
from llava_kit.recipe.generate import Generate


class Pictures(DataSource):
    """`count` pictures; those in `bare` have no captions, those in `bad` cannot be read."""

    def __init__(self, count=6, bare=(), bad=()):
        self.count, self.bare, self.bad = count, bare, bad

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise SampleError("bad_row", "is no row", sample_id=f"p{index}")
        picture = ImagePixels(lambda: np.full((4, 6, 3), index % 256, dtype=np.uint8), (6, 4), f"p{index}")
        captions = () if index in self.bare else (f"A mat with cat {index} on it.", f"Cat {index} sits on a mat.")
        told = Annotations(captions, (Box("cat", 0.1, 0.25, 0.5, 0.7504), Box("mat", 0.0, 0.5, 1.0, 1.0)))
        return Sample(f"p{index}", Conversation(()), (picture,), {"source": "cats", "kind": "old"}, told)

    def fingerprint(self):
        return f"cats {self.count}"


def good(request):
    """An answer that is taken, another one for every request."""
    told = f"In view is something numbered {request.key} and next to it nothing else that one could speak of."
    if request.type == "detail":
        return told
    first = f"Question:\nWhat may come next, and why?\n===\nAnswer:\n{told}\n===\n"
    return first if request.type == "reasoning" else f"{first}Question:\nIs there a dog?\n===\nAnswer:\nNo, none.\n==="


@dataclass
class Said(Teacher):
    """Says `say(request)`, which may raise; remembers what it was asked and how many at a time."""

    say: object = good
    delay: float = 0.0
    counted: bool = True
    called: str = "said-1"
    asked: list = field(default_factory=list)
    inside: int = 0
    most: int = 0

    @property
    def name(self):
        return self.called

    async def answer(self, request):
        self.asked.append(request)
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(self.delay)
            said = self.say(request)
        finally:
            self.inside -= 1
        if isinstance(said, TeacherAnswer):
            return said
        usage = (sum(len(part.content) for part in request.messages) // 5, len(said) // 5) if self.counted else (0, 0)
        return TeacherAnswer(said, self.name, "stop", *usage)


@pytest.fixture
def pictures():
    return Pictures


@pytest.fixture
def said():
    return Said


@pytest.fixture
def good_answer():
    return good


@pytest.fixture
def make_options(tmp_path):
    """`make_options(types=..., ...)`: the step, into tmp_path/out unless it says otherwise."""

    def make(**keys):
        keys = {"to": str(tmp_path / "out"), "source": {"type": "cats"}, "teacher": {"type": "said"}, "backoff": 0.001, **keys}
        return Generate.model_validate(keys)

    return make
