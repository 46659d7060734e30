"""The filter as a whole: folders that every tool reads, the same whatever the workers, gone on with after a kill."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from llava_kit.assemble.parts import build_source
from llava_kit.captions import find
from llava_kit.captions.pair import draw, instructions
from llava_kit.captions.run import filter_captions
from llava_kit.core.annotations import Annotations
from llava_kit.core.conversation import Conversation, ImageFile, ImageSlot, ImageUrl, Message, Sample
from llava_kit.core.source import DataSource
from llava_kit.errors import DataError, LlavaKitError, SampleError
from llava_kit.recipe.blocks import Part
from llava_kit.recipe.filter_captions import FilterCaptions


class Splitter:
    """Phrases are what stands between commas. Counts the captions that it was asked about."""

    name = "splitter 1"

    def __init__(self) -> None:
        self.asked = 0

    def phrases(self, captions):
        self.asked += len(captions)
        return [[part.strip() for part in caption.split(",")] for caption in captions]


class Listed(DataSource):
    """Samples that are listed; an error stands for a row that cannot be read."""

    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        if isinstance(self.samples[index], SampleError):
            raise self.samples[index]
        return self.samples[index]

    def fingerprint(self):
        return f"listed {len(self.samples)}"


def shown(number: int, *captions: str, image=None) -> Sample:
    picture = ImageFile(f"sub/{number}.png", "/data/pictures") if image is None else image
    asked = (Message("user", (ImageSlot(0),)), Message("assistant", ("yes",)), Message("user", ("and?",)))
    return Sample(f"row-{number}", Conversation(asked), (picture,), {"source": "mine"}, Annotations(captions))


def answered(number: int, text: str) -> Sample:
    turns = (Message("user", (ImageSlot(0), "\nWhat is this?")), Message("assistant", (text,)))
    return Sample(f"row-{number}", Conversation(turns), (ImageFile(f"{number}.png", "/data/pictures"),))


def options(folder: Path, **changes) -> FilterCaptions:
    return FilterCaptions(source=Part(type="listed"), to=str(folder), workers=1, **changes)


def rows(folder: Path) -> list[dict]:
    return json.loads((folder / "data.json").read_text(encoding="utf-8"))


SKY = [answered(number, f"sky, bird {number % 30}" if number < 60 else "sky") for number in range(200)]


def test_the_folder_holds_rows_with_the_phrase_that_took_them_and_the_figures(tmp_path):
    done = filter_captions(options(tmp_path / "out", least=2, most=10), Listed(*SKY), Splitter())
    told = rows(tmp_path / "out")
    taken = Counter(row["tags"]["filter"]["phrase"] for row in told)
    assert [taken[f"bird {number}"] for number in range(30)] == [2] * 30
    assert 0 < taken["sky"] <= 10
    assert all(row["captions"] == [row["conversations"][1]["value"]] for row in told)
    assert {row["tags"]["filter"]["frequency"] for row in told} == {2, 200}
    assert done.statistics == json.loads((tmp_path / "out" / "statistics.json").read_text(encoding="utf-8"))
    figures = done.statistics
    assert (figures["captions"], figures["captions_chosen"], figures["rows_written"]) == (200, len(told), len(told))
    assert (figures["phrases"], figures["phrases_after"], figures["phrases_rare"], figures["coverage"]) == (31, 31, 0, 1.0)
    assert figures["top"][0] == {"phrase": "sky", "before": 200, "after": len(told)}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "bird 0" in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "data.json", "dataset.json", "phrases.jsonl", "report.html", "statistics.json",
    ]  # fmt: skip


def test_the_picture_world_is_filtered_and_read_back_with_any_number_of_workers(tmp_path):
    part = Part(type="shapes", task="captions", size=40, annotations=True)
    texts = []
    for workers in (1, 3):
        folder = tmp_path / f"by-{workers}"
        find_in_small_batches = pytest.MonkeyPatch()
        find_in_small_batches.setattr(find, "BATCH_ROWS", 8)
        filter_captions(FilterCaptions(source=part, to=str(folder), most=5, workers=workers))
        find_in_small_batches.undo()
        texts.append((folder / "data.json").read_bytes())
    assert texts[0] == texts[1]
    source = build_source(Part(type="llava_json", path=str(tmp_path / "by-3")))
    world = build_source(part)
    told = rows(tmp_path / "by-3")
    assert len(source) == len(told) > 40
    for index in range(0, len(source), 7):
        sample = source[index]
        number = int(sample.id.split("/")[2].removeprefix("train-"))
        assert sample.annotations.captions[0] in world[number].annotations.captions
        assert sample.conversation.messages[-1].text == sample.annotations.captions[0]
        assert (tmp_path / "by-3" / told[index]["image"]).is_file()


def test_a_run_that_is_stopped_goes_on_and_asks_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(find, "BATCH_ROWS", 16)

    class Stopped(Splitter):
        def phrases(self, captions):
            if self.asked >= 96:
                raise KeyboardInterrupt
            return super().phrases(captions)

    first, second, whole = Stopped(), Splitter(), Splitter()
    with pytest.raises(KeyboardInterrupt):
        filter_captions(options(tmp_path / "out", most=10), Listed(*SKY), first)
    with open(tmp_path / "out" / "phrases.jsonl", "ab") as file:
        file.write(b'{"rows": [96, 1')  # what a kill in mid-write leaves
    filter_captions(options(tmp_path / "out", most=10), Listed(*SKY), second)
    assert (first.asked, second.asked) == (96, 104)
    filter_captions(options(tmp_path / "whole", most=10), Listed(*SKY), whole)
    for name in ("data.json", "statistics.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # Another rule on the same captions looks for nothing again.
    again = Splitter()
    filter_captions(options(tmp_path / "out", most=20), Listed(*SKY), again)
    assert again.asked == 0
    again.name = "splitter 2"
    with pytest.raises(DataError, match="finder"):
        filter_captions(options(tmp_path / "out", most=20), Listed(*SKY), again)


def test_pairing_takes_each_instruction_and_each_side_as_often_and_by_the_row_alone(tmp_path):
    assert [len(told) for told in instructions().values()] == [11, 16]
    assert all(len(set(told)) == len(told) for told in instructions().values())
    for pair in ("brief", "detailed"):
        drawn = Counter(draw(pair, 0, f"row-{number}") for number in range(3200))
        assert {text for text, _ in drawn} == set(instructions()[pair])
        assert len(drawn) == 2 * len(instructions()[pair])
        assert min(drawn.values()) > 0.6 * 3200 / len(drawn)
    filter_captions(options(tmp_path / "brief", most=200, seed=5), Listed(*SKY), Splitter())
    for row in rows(tmp_path / "brief"):
        text, before = draw("brief", 5, row["id"])
        assert row["conversations"][0]["value"] == (f"<image>\n{text}" if before else f"{text}\n<image>")
    filter_captions(options(tmp_path / "none", most=200, pair="none"), Listed(*SKY), Splitter())
    assert {row["conversations"][0]["value"] for row in rows(tmp_path / "none")} == {"<image>"}


def test_pictures_stay_where_they_are_under_the_folder_that_they_have_in_common(tmp_path):
    source = Listed(
        *(shown(number, "sky", "bird") for number in range(3)),
        shown(3, "sky", "bird", image=ImageFile("a b.png", "/data/more")),
        shown(4, "sky", image=ImageUrl("https://example.com/5.png")),
    )
    done = filter_captions(options(tmp_path / "out"), source, Splitter())
    manifest = json.loads((tmp_path / "out" / "dataset.json").read_text(encoding="utf-8"))
    assert manifest["image_root"] == os.path.relpath("/data", tmp_path / "out")
    told = {row["id"]: row["image"] for row in rows(tmp_path / "out")}
    assert told["row-0/0"] == told["row-0/1"] == "pictures/sub/0.png"
    assert told["row-3/1"] == "more/a b.png"
    assert told["row-4"] == "https://example.com/5.png"
    assert (done.statistics["samples_chosen"], done.statistics["captions_chosen"]) == (5, 9)
    # To be copied they must be there.
    done = filter_captions(options(tmp_path / "copied", pictures="copy"), source, Splitter())
    assert done.statistics["rejected"] == 5  # each sample once, though two captions of it were chosen
    assert rows(tmp_path / "copied") == []
    lines = (tmp_path / "copied" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"row-{number}" for number in range(5)]


def test_samples_without_a_caption_are_told_and_the_others_are_chosen(tmp_path):
    talk = Sample("talk", Conversation((Message("user", ("Hi",)), Message("assistant", ("Hello",)))))
    bad = [
        talk,
        shown(1),
        shown(2, " ", ""),
        shown(3, "x" * 100_000),
        SampleError("missing_image", "is not there", sample_id="lost"),
    ]
    done = filter_captions(options(tmp_path / "out"), Listed(*SKY[:100], *bad, *SKY[100:]), Splitter())
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["index"], line["id"], line["reason"]) for line in lines] == [
        (100, "talk", "no_picture"),
        (101, "row-1", "no_caption"),
        (102, "row-2", "no_caption"),
        (103, "row-3", "long_caption"),
        (104, "lost", "missing_image"),
    ]
    assert done.rejected == 5
    assert done.statistics["captions"] == 200


def test_odd_letters_survive(tmp_path):
    captions = ["sky\0, 犬", 'sky, "</script><b>"', "sky, \ud800", "sky"]
    source = Listed(*(answered(number, caption) for number, caption in enumerate(captions)))
    filter_captions(options(tmp_path / "out", least=1), source, Splitter())
    assert [row["captions"][0] for row in rows(tmp_path / "out")] == captions
    assert "</script><b>" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (Listed(), "has no samples"),
        (Listed(shown(1), shown(2)), "none of the 2 samples has a caption.*row-1: has no captions and 3 turns"),
        (
            Listed(*(answered(number, f"bird {number}") for number in range(9))),
            "no phrase is in 3 captions or more.*9 captions",
        ),
    ],
)
def test_nothing_to_choose_from_is_said(tmp_path, source, told):
    with pytest.raises(DataError, match=told):
        filter_captions(options(tmp_path / "out"), source, Splitter())


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="not empty"):
        filter_captions(options(tmp_path), Listed(*SKY), Splitter())
    with pytest.raises(DataError, match="is a file"):
        filter_captions(options(tmp_path / "mine.txt"), Listed(*SKY), Splitter())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_finder_that_leaves_captions_out_is_refused(tmp_path):
    class Lazy(Splitter):
        def phrases(self, captions):
            return super().phrases(captions[1:])

    with pytest.raises(LlavaKitError, match="phrases for 199 of 200 captions"):
        filter_captions(options(tmp_path / "out"), Listed(*SKY), Lazy())


def test_a_killed_worker_is_told_and_the_same_command_goes_on(tmp_path, monkeypatch):
    import os
    import signal

    monkeypatch.setattr(find, "BATCH_ROWS", 16)
    parent = os.getpid()

    class Killed(Splitter):
        def phrases(self, captions):
            if os.getpid() != parent and "bird 20" in captions[4]:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().phrases(captions)

    changed = options(tmp_path / "out").model_copy(update={"workers": 2})
    with pytest.raises(DataError, match=r"SIGKILL.*the same command goes on"):
        filter_captions(changed, Listed(*SKY), Killed())
    assert filter_captions(changed, Listed(*SKY), Splitter()).statistics["captions"] == 200


@pytest.mark.parametrize("file", ["phrases.jsonl", "data.json", "report.html"])
def test_a_full_disk_is_told_and_the_same_command_goes_on(tmp_path, monkeypatch, file):
    import builtins
    import errno

    class Full:
        """A file into which nothing fits."""

        def __init__(self, real):
            self.real = real

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.real.close()

        def __getattr__(self, name):
            return getattr(self.real, name)

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path, *given, **named):
        real = whole(path, *given, **named)
        writes = any(letter in str(given[:1] or named.get("mode", "r")) for letter in "wa")
        return Full(real) if writes and Path(path).name.startswith(file) else real

    whole = builtins.open
    monkeypatch.setattr(builtins, "open", opened)
    with pytest.raises(DataError, match=r"No space left on device.*the same command goes on"):
        filter_captions(options(tmp_path / "out"), Listed(*SKY), Splitter())
    monkeypatch.setattr(builtins, "open", whole)
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert filter_captions(options(tmp_path / "out"), Listed(*SKY), Splitter()).statistics["captions"] == 200
