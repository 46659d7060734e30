"""A small gallery with everything that a page must survive, made once."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw

from llava_kit import Annotations, Box, build
from llava_kit.core.annotations import padded
from llava_kit.core.conversation import ClipFolder, Conversation, ImageFile, ImageSlot, Message, Sample
from llava_kit.core.source import DataSource
from llava_kit.core.tiles import EncoderSpec, Grid
from llava_kit.data.example import ExampleMaker
from llava_kit.errors import SampleError
from llava_kit.image.geometry import TilingPlan
from llava_kit.image.tiling import Tiler, TilingOptions
from llava_kit.testing.tokenizers import sentencepiece_tokenizer
from llava_kit.view.gallery import Gallery
from llava_kit.view.lens import Lens

SIZES = {"wide": (300, 100), "tall": (100, 300), "square": (120, 120)}
THING = Box("a magenta thing", 0.2, 0.3, 0.6, 0.8)
MAGENTA = (255, 0, 255)
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b class=injected>bold</b>"
OPTIONS = TilingOptions(mode="anyres", pinpoints=((48, 96), (96, 48), (96, 96)))
SIDE = Grid(3, 3)


class Rows(DataSource):
    """Samples from a list; what is an error is raised."""

    def __init__(self, rows: list):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        if isinstance(self.rows[index], Exception):
            raise self.rows[index]
        return self.rows[index]

    def fingerprint(self) -> str:
        return "rows"


def talk(*texts: str, pictures: int = 1) -> Conversation:
    first = (*(ImageSlot(number) for number in range(pictures)), "\n" + texts[0] if pictures else texts[0])
    turns = [first, *((text,) for text in texts[1:])]
    return Conversation(tuple(Message(("user", "assistant")[at % 2], parts) for at, parts in enumerate(turns)))


def written(box: Box) -> str:
    return "[" + ", ".join(f"{number:.4f}" for number in box[1:]) + "]"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name, (width, height) in SIZES.items():
        picture = Image.new("RGB", (width, height), "white")
        corners = [THING.left * width, THING.top * height, THING.right * width - 1, THING.bottom * height - 1]
        ImageDraw.Draw(picture).rectangle(corners, fill=MAGENTA)
        picture.save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "wide.png").read_bytes()[:120])
    (folder / "clip").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 48), (80 * number, 0, 0)).save(folder / "clip" / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def rows(folder):
    def picture(name: str) -> ImageFile:
        return ImageFile(f"{name}.png", str(folder))

    def placed(name: str, convention) -> Sample:
        box = padded(THING, SIZES[name]) if convention == "padded" else THING
        notes = Annotations(("A caption.",), (THING,), convention)
        tags = {"source": "regions", "provenance": {"by": "hand"}}
        return Sample(f"{name}-{convention}", talk("Where?", f"🙂 At {written(box)}."), (picture(name),), tags, notes)

    long = talk(*(f"{'question' if turn % 2 == 0 else 'answer'} {turn} " + "word " * 12 for turn in range(30)))
    evil = Annotations((HOSTILE,), (Box(HOSTILE, 0.1, 0.1, 0.5, 0.5),))
    nan = Annotations((), (Box("nan", float("nan"), 0.1, 0.5, 0.5), Box("out", 0.5, 0.5, 1.7, 0.9)))
    special = [
        placed("wide", "padded"),
        placed("tall", "padded"),
        placed("wide", "picture"),
        placed("tall", "picture"),
        Sample(
            HOSTILE,
            talk(HOSTILE, HOSTILE + " [0.1, 0.2, 0.3, 0.4]"),
            (picture("square"),),
            {"source": HOSTILE, HOSTILE: 1},
            evil,
        ),
        Sample("long", long, (picture("square"),)),
        Sample("text", talk("Say <image>.", "Said.", pictures=0)),
        Sample("two", talk("Compare.", "Done.", pictures=2), (picture("wide"), picture("tall"))),
        Sample("gone", talk("What?", "Nothing."), (picture("nowhere"),)),
        Sample("cut", talk("What?", "Half."), (picture("broken"),)),
        SampleError("bad_row", "row 10: has no turns", sample_id="bad"),
        RuntimeError("a stranger's source fell over"),
        Sample("nan", talk("Which?", "None. \ud800"), (picture("square"),), {"odd": float("nan")}, nan),
        Sample("film", talk("What happens?", "It reddens."), (ClipFolder("clip", str(folder)),)),
    ]
    plain = [
        Sample(f"plain-{n}", talk(f"Question {n}?", "Because " * (n % 7 + 1)), (picture("square"),), {"source": "ab"[n % 2]})
        for n in range(120 - len(special))
    ]
    return [*special, *plain]


@pytest.fixture(scope="session")
def lens():
    spec = EncoderSpec(48, SIDE, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    maker = ExampleMaker(build("template", "vicuna_v1"), sentencepiece_tokenizer(), Tiler(spec, OPTIONS), SIDE, 400)
    return Lens("toy", TilingPlan(48, OPTIONS), SIDE, maker)


@pytest.fixture(scope="session")
def gallery(rows, lens):
    return Gallery(Rows(rows), lens=lens, name="toy <rows>")
