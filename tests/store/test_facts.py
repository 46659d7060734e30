from __future__ import annotations

from llava_kit.core.annotations import Annotations, Box
from llava_kit.core.conversation import ClipFolder, Conversation, ImageFile, ImagePixels, ImageSlot, Message, Sample
from llava_kit.store.facts import SampleFacts, facts_of


def test_facts():
    turns = (Message("user", (ImageSlot(0), "\nWhat is this?", ImageSlot(1))), Message("assistant", ("A  cat.",)))
    images = (ImagePixels(lambda: None, (7, 5)), ImageFile("/nowhere.jpg"), ClipFolder("clip"))
    notes = Annotations(boxes=(Box("cat", 0, 0, 1, 1),))
    sample = Sample("s", Conversation(turns), images, {"source": "x"}, notes)
    assert facts_of(sample) == SampleFacts("x", 2, 3, 2, 2, 1, 1, ((7, 5),))
    assert facts_of(sample, sizes=False).sizes == ()
    assert facts_of(Sample("t", Conversation(()))).source == "unnamed"
