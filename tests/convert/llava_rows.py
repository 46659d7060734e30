"""A source of rows with picture files for the tests of conversion: every kind of row, some of them bad."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from llava_kit.assemble.parts import build


def answer(text: str = "A cat.") -> dict[str, str]:
    return {"from": "gpt", "value": text}


def turns(text: str = "<image>\nWhat?") -> list[dict[str, str]]:
    return [{"from": "human", "value": text}, answer()]


def make_pictures(folder: Path, count: int = 8) -> None:
    """Small JPEGs `0.jpg`, ... and one PNG that is called `wrong.jpg`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (9 + number, 7), (20 * number, 90, 30)).save(folder / f"{number}.jpg", quality=80)
    Image.new("RGB", (5, 5), "red").save(folder / "wrong.jpg", "PNG")
    (folder / "page.jpg").write_text("<!doctype html><p>404")


def write_rows(folder: Path, count: int, pictures: int = 8) -> Path:
    """`rows.jsonl` with `count` rows; of ten one has two pictures, one none, one shows what is missing, one is no JSON."""
    make_pictures(folder / "pics", pictures)
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for number in range(count):
            row = {
                "id": f"r{number}",
                "image": f"pics/{number % pictures}.jpg",
                "conversations": turns(f"<image>\nNo. {number}?"),
            }
            kind = number % 10
            if kind == 3:
                row |= {"image": [row["image"], "pics/wrong.jpg"], "conversations": turns("One <image> two <image>?")}
            elif kind == 5:
                del row["image"]
                row["conversations"] = turns("Is <image> a tag?")
            elif kind == 7:
                row["image"] = "pics/gone.jpg"
            elif kind == 8:
                row |= {"captions": ["A."], "boxes": [{"label": "cat", "box": [0, 0.25, 1, 1]}], "box_convention": "padded"}
            file.write((json.dumps(row) if kind != 9 else '{"id": 1,}') + "\n")
    return folder / "rows.jsonl"


def source_of(path: Path, **options):
    return build("source", "llava_json", path=str(path), **options)


def said(sample) -> list[tuple[str, str]]:
    """Turns with neighbouring texts joined."""
    return [
        (message.role, "".join(part if isinstance(part, str) else f"\0{part.index}\0" for part in message.parts))
        for message in sample.conversation.messages
    ]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of the folder by its name; of `dataset.json` all but the date."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    manifest = json.loads(found.pop("dataset.json"))
    assert manifest.pop("date")
    return {**found, "dataset.json": json.dumps(manifest).encode()}
