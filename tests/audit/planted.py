"""A small data set without a fault, and forty-odd rows that have one each, from a seed."""

from __future__ import annotations

import io
import json
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = ("red", "green", "blue", "yellow", "white", "black", "orange", "purple")
THINGS = ("cat", "bicycle", "kettle", "tree", "lamp", "boat", "piano", "ladder", "umbrella", "clock")
PLACES = ("on the table", "beside the door", "under a bridge", "in the grass", "near the window", "behind the fence")


def photograph(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Soft blobs of colour under grain, unlike those of any other seed."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (6, 8, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = generator.integers(-6, 7, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(small) + grain, 0, 255).astype(np.uint8))


def encoded(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def bomb() -> bytes:
    """A PNG that declares 40,000 x 40,000 pixels in a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


class DataSet:
    """Rows and their pictures under a folder."""

    def __init__(self, folder: Path, seed: int = 0):
        self.folder, self.random = folder, random.Random(seed)
        self.rows: list[dict[str, Any]] = []
        self.planted: list[tuple[str, str]] = []
        """(id, reason) of each fault."""
        (folder / "images").mkdir(parents=True, exist_ok=True)

    def picture(self, name: str, data: bytes | None = None) -> str:
        """A picture file of its own seed, or of the given bytes."""
        if data is None:
            data = encoded(photograph(self.random.getrandbits(32)), quality=90)
        (self.folder / "images" / name).write_bytes(data)
        return f"images/{name}"

    def clean(self, count: int) -> None:
        """Rows that nobody could mind: one picture, several, none; some with boxes; many words, some twice in the set."""
        for number in range(count):
            name, kind = f"good-{number}", number % 4
            what, where = self.sentence(), self.random.choice(PLACES)
            row: dict[str, Any] = {"id": name}
            if kind == 3:
                row["conversations"] = turns(f"What is {number} plus {number + 1}?", f"It is {2 * number + 1}. {what}")
            elif kind == 2:
                row["image"] = [
                    self.picture(f"{name}a.jpg"),
                    self.picture(f"{name}b.png", encoded(photograph(self.random.getrandbits(32)), "PNG")),
                ]
                row["conversations"] = turns("<image>\n<image>\nWhat differs?", what, f"Is it {where}?", "Yes.")
            else:
                row["image"] = self.picture(f"{name}.jpg")
                row["conversations"] = turns(
                    "<image>\nWhat is this?", what, "Where is it?", f"It is {where}.", "Is it old?", "No."
                )
                row["boxes"] = [{"label": self.random.choice(THINGS), "box": [0.1, 0.2, 0.5, 0.9]}]
            self.rows.append(row)

    def sentence(self) -> str:
        first, second = self.random.sample(THINGS, 2)
        place = self.random.choice(PLACES)
        one, two = self.random.choices(COLOURS, k=2)
        return f"A {one} {first} and the {two} {second} {place}, {self.random.random():.3f} m away."

    def plant(self, reason: str, name: str | None = None, **changed: Any) -> str:
        """A clean row with a picture of its own, but for what is changed; its fault is remembered."""
        name = name or f"bad-{reason}-{len(self.planted)}"
        row: dict[str, Any] = {"id": name, "conversations": turns("<image>\nWhat is this?", self.sentence())}
        if "image" not in changed:
            row["image"] = self.picture(f"{name}.jpg".replace(" ", "_"))
        self.rows.append({key: value for key, value in {**row, **changed}.items() if value is not None})
        self.planted.append((name, reason))
        return name

    def say(self, reason: str, answer: str | None = None, question: str = "What is this?") -> None:
        self.plant(reason, conversations=turns(f"<image>\n{question}", self.sentence() if answer is None else answer))

    def write(self, shuffled: bool = True) -> Path:
        if shuffled:
            self.random.shuffle(self.rows)
        path = self.folder / "data.json"
        path.write_text(json.dumps(self.rows), encoding="utf-8")
        return path


def plant_all(data: DataSet) -> None:
    """One fault of each kind that a conversation file can have by itself, without a recipe or another split."""
    answer = data.sentence()
    ask = "<image>\nWhat is this?"
    _plant_rows(data, ask, answer)
    _plant_pictures(data)
    _plant_text(data)
    _plant_boxes(data)
    _plant_repeats(data, ask)


def _plant_rows(data: DataSet, ask: str, answer: str) -> None:
    data.plant("bad_row", conversations="What?")
    data.plant("bad_annotation", boxes=[{"label": "lamp", "box": [0.1, 0.2, 0.3]}])
    data.plant("bad_number", conversations=turns(ask, answer), score=float("nan"))
    data.plant(
        "bad_turns",
        conversations=[{"from": "human", "value": ask}, {"from": "human", "value": "And?"}, {"from": "gpt", "value": answer}],
    )
    data.plant("bad_turns", conversations=[{"from": "robot", "value": ask}, {"from": "gpt", "value": answer}])
    data.plant(
        "answer_first",
        image=None,
        conversations=[{"from": "gpt", "value": "Hello!"}, *turns("Where is the nearest lamp?", answer)],
    )
    data.plant("empty_question", conversations=turns(ask, answer, "  ", "Yes."))
    data.plant("empty_answer", conversations=turns(ask, " \n"))
    data.plant("image_count", conversations=turns("<image>\n<image>\nWhat is this?", answer))
    data.plant("image_count", conversations=turns("What is this?", answer))
    data.plant("lost_picture", image=None, conversations=turns(ask, answer))


def _plant_pictures(data: DataSet) -> None:
    whole = encoded(photograph(1), quality=90)
    png = encoded(photograph(2), "PNG")
    strip = encoded(photograph(3, (400, 20)), "PNG")
    data.plant("missing_image", image="images/gone.jpg")
    data.plant("outside_root", image="../../etc/hostname")
    data.plant("url_not_allowed", image="https://example.com/a.jpg")
    data.plant("unreadable_image", image=data.picture("page.jpg", b"<!DOCTYPE html><html><body>404</body></html>"))
    data.plant("unreadable_image", image=data.picture("empty.jpg", b""))
    data.plant("truncated_image", image=data.picture("cut.jpg", whole[: len(whole) * 2 // 3]))
    data.plant("truncated_image", image=data.picture("cut.png", png[: len(png) // 2]))
    data.plant("format_not_allowed", image=data.picture("a.pdf", b"%PDF-1.7\n" + bytes(100)))
    data.plant("too_many_pixels", image=data.picture("bomb.png", bomb()))
    data.plant("wrong_extension", image=data.picture("really_a_png.jpg", encoded(photograph(4), "PNG")))
    data.plant(
        "large_image", image=data.picture("large.jpg", encoded(photograph(5).convert("L").resize((7600, 5400)), quality=30))
    )
    data.plant("tiny_image", image=data.picture("tiny.png", encoded(photograph(6, (8, 8)), "PNG")))
    data.plant("extreme_aspect", image=data.picture("strip.png", strip))
    data.plant("blank_image", image=data.picture("blank.jpg", encoded(Image.new("RGB", (100, 80), "grey"))))
    data.plant(
        "video",
        image=None,
        video=data.picture("clip.mp4", bytes(100)),
        conversations=turns("<video>\nWhat happens?", "A cat runs off."),
    )


def _plant_text(data: DataSet) -> None:
    data.say("special_token", "A lamp.</s> A tree.")
    data.say("special_token", question="What is <|im_end|> this?")
    data.say("role_marker", "A lamp. USER: And what else? ASSISTANT: A tree.")
    data.say("typed_placeholder", "The <image> shows a kettle.")
    data.say("null_character", "A kettle\0 on the table.")
    data.say("lone_surrogate", "A kettle \ud83d on the table.")
    data.say("replacement_character", "A caf\ufffd by the road.")
    data.say("mojibake", "A cafÃ© by the road.")
    data.say("control_character", "A kettle\x1b[31m on the table.")
    data.say("long_text", " ".join(f"word{number}" for number in range(20_000)))
    data.say("looping_text", "It shows " + "a red kettle and " * 9 + "a red kettle.")
    data.say("refusal", "I'm sorry, but I cannot assist with that.")
    data.say("mentions_source", "As the given captions say, a kettle stands there.")
    data.plant(
        "repeated_question",
        conversations=turns("<image>\nWhat is it?", "A lamp.", "Where is it?", "Here.", "where is  it?", "There."),
    )
    data.plant(
        "echoed_question",
        image=None,
        conversations=turns("Tell me where the ladder stands.", "Tell me where the ladder stands."),
    )


def _plant_boxes(data: DataSet) -> None:
    def boxes(reason: str, *numbers: float, label: str = "lamp") -> None:
        data.plant(reason, boxes=[{"label": label, "box": list(numbers)}])

    boxes("box_outside", 0.1, 0.2, 1.4, 0.6)
    boxes("box_empty", 0.5, 0.2, 0.5, 0.6)
    boxes("box_empty", 0.6, 0.2, 0.1, 0.6)
    boxes("box_without_label", 0.1, 0.2, 0.5, 0.6, label=" ")
    asked = "<image>\nWhere is the lamp?"
    data.plant("box_not_a_number", conversations=turns(asked, "[0.10, nan, 0.30, 0.60]"), box_convention="picture")
    data.plant("text_box_outside", conversations=turns(asked, "[0.10, 0.20, 1.30, 0.60]"), box_convention="picture")
    # The picture is 160 x 120: padded to a square, nothing of it lies in the upper eighth.
    data.plant("text_box_outside", conversations=turns(asked, "[0.10, 0.00, 0.30, 0.60]"), box_convention="padded")
    data.plant("text_box_empty", conversations=turns(asked, "[0.50, 0.20, 0.30, 0.60]"), box_convention="picture")
    data.plant("text_box_convention", conversations=turns(asked, "[0.10, 0.20, 0.30, 0.60]"))


def _plant_repeats(data: DataSet, ask: str) -> None:
    """These are the second of a pair, so the rows must stay in their order."""
    original = encoded(photograph(77), quality=92)
    data.rows.insert(
        0, {"id": "first", "image": data.picture("first.jpg", original), "conversations": turns(ask, "A first look.")}
    )
    data.plant("duplicate_id", name="first", image=data.picture("own.jpg"))
    data.plant("duplicate_sample", image="images/first.jpg", conversations=turns(ask, "A first look."))
    data.plant("duplicate_picture", image=data.picture("copy.jpg", original))
    smaller = photograph(77).resize((100, 75), Image.Resampling.BICUBIC).point(lambda level: int(level * 0.9))
    data.plant("near_duplicate_picture", image=data.picture("like.jpg", encoded(smaller, quality=60)))
