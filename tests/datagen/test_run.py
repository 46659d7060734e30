"""What is written, and going on in a folder that is there."""

import json
import random

import pytest

from llava_kit.core.teacher import TeacherAnswer
from llava_kit.datagen.prompt_set import copy_prompts
from llava_kit.datagen.run import Hooks, generate
from llava_kit.errors import DataError

OUTPUTS = ("data.jsonl", "rejected.jsonl")
ALL = {"conversation": 6, "detail": 6, "reasoning": 6}


def rows_of(result, name="data.jsonl"):
    return [json.loads(line) for line in (result.folder / name).read_text(encoding="utf-8").splitlines()]


def test_rows_say_who_wrote_them_from_what(make_options, pictures, said):
    result = generate(make_options(types=ALL), source=pictures(), teacher=said())
    rows = rows_of(result)
    assert [row["id"] for row in rows] == [f"p{n}/{type}" for n in range(6) for type in ("conversation", "detail", "reasoning")]
    first, second, _ = rows[:3]
    assert [turn["from"] for turn in first["conversations"]] == ["human", "gpt", "human", "gpt"]
    assert first["conversations"][0]["value"].startswith("<image>\n")
    assert second["conversations"][0]["value"].removeprefix("<image>\n") in _questions()
    assert first["captions"] == ["A mat with cat 0 on it.", "Cat 0 sits on a mat."]
    assert first["tags"]["source"] == "cats"
    assert first["tags"]["kind"] == "conversation"
    provenance = first["tags"]["provenance"]
    assert provenance["teacher"] == provenance["model"] == "said-1"
    assert provenance["sample"] == "p0"
    assert {"prompt", "key", "seed"} < set(provenance)
    assert len({row["image"] for row in rows}) == 6
    assert all((result.folder / row["image"]).is_file() for row in rows)
    assert not (result.folder / "unfinished").exists()
    summary = json.loads((result.folder / "summary.json").read_text())
    assert summary["complete"]
    assert summary["rows"] == {"conversation": 6, "detail": 6, "reasoning": 6}


def _questions():
    from llava_kit.datagen.prompt_set import load_prompts

    return load_prompts().questions


def test_the_source_reads_the_rows_back(make_options, pictures, said):
    from llava_kit.assemble.build import build_source
    from llava_kit.recipe.blocks import Part

    result = generate(make_options(types={"detail": 6}), source=pictures(), teacher=said())
    source = build_source(Part.model_validate({"type": "llava_json", "path": str(result.folder / "data.jsonl")}))
    assert len(source) == 6
    assert source[2].annotations == pictures()[2].annotations
    assert source[2].tags["provenance"]["sample"] == "p2"


def test_the_same_bytes_whatever_the_order(make_options, pictures, said, good_answer, tmp_path):
    chance = random.Random(1)

    def poor(request):
        number = int(request.key, 16) % 5
        return ["", "Too short.", good_answer(request), good_answer(request), good_answer(request)][number]

    class Slow(said):
        async def answer(self, request):
            self.delay = chance.random() / 100
            return await super().answer(request)

    written = []
    for number, concurrency in enumerate((1, 4, 16)):
        options = make_options(types=ALL, concurrency=concurrency, to=str(tmp_path / f"out{number}"))
        result = generate(options, source=pictures(), teacher=Slow(poor))
        assert result.exit_code == 0
        written.append([(result.folder / name).read_bytes() for name in OUTPUTS])
    assert written[0] == written[1] == written[2]
    assert written[0][1].count(b"\n") == 18 - written[0][0].count(b"\n") > 0


def test_nothing_is_asked_twice(make_options, pictures, said):
    options, teacher = make_options(types=ALL), said()
    before = generate(options, source=pictures(), teacher=teacher)
    text = (before.folder / "data.jsonl").read_bytes()
    again = said()
    after = generate(options, source=pictures(), teacher=again)
    assert len(teacher.asked) == 18
    assert not again.asked
    assert (after.folder / "data.jsonl").read_bytes() == text


@pytest.mark.parametrize("text", ["[]", '{"x": 1}', '{"source": {}, "prompts": 3}', "", "\0\0"])
def test_damaged_settings_cost_nothing(make_options, pictures, said, text):
    before = generate(make_options(types=ALL), source=pictures(), teacher=said())
    (before.folder / "generate.json").write_text(text)
    again = said()
    assert generate(make_options(types=ALL), source=pictures(), teacher=again).exit_code == 0
    assert not again.asked
    assert '"source"' in (before.folder / "generate.json").read_text()


def test_only_what_changed_is_asked_again(make_options, pictures, said, tmp_path):
    told = []
    generate(make_options(types=ALL), source=pictures(), teacher=said())
    copy_prompts(tmp_path / "mine")
    (tmp_path / "mine/reasoning/system.txt").write_text("Ask and answer.", encoding="utf-8")
    changed, teacher = make_options(types=ALL, prompts=str(tmp_path / "mine")), said()
    generate(changed, source=pictures(), teacher=teacher, hooks=Hooks(tell=told.append))
    assert [request.type for request in teacher.asked] == ["reasoning"] * 6
    assert told == ["changed since the last run here: prompts; only what is not known is asked"]
    other = said(called="said-2")
    generate(changed, source=pictures(), teacher=other, hooks=Hooks(tell=told.append))
    assert len(other.asked) == 18
    assert "teacher" in told[1]
    back = said()
    generate(make_options(types=ALL), source=pictures(), teacher=back)
    assert not back.asked


def test_each_reason_is_counted_and_the_text_kept(make_options, pictures, said, good_answer):
    texts = [
        "",
        "The caption says that a cat is lying on a mat in the middle.",
        "I cannot see the picture at all, so I do not know it.",
    ]

    def say(request):
        number = int(request.messages[-1].content.split("cat ")[1][0])
        if number == 3:
            return TeacherAnswer(good_answer(request), "m", "length")
        return (
            texts[number]
            if number < 3
            else good_answer(request)
            if number == 4
            else "Always the same long text about a cat on its mat."
        )

    result = generate(make_options(types={"detail": 7}), source=pictures(7), teacher=said(say))
    assert result.written is not None
    assert result.written.rejected == {"empty": 1, "mentions_source": 1, "refusal": 1, "cut_off": 1, "duplicate": 1}
    aside = rows_of(result, "rejected.jsonl")
    assert [row["text"] for row in aside[:3]] == texts
    assert aside[-1]["id"] == "p6/detail"
    assert result.written.rows == {"detail": 2}


@pytest.mark.parametrize(("duplicates", "rows"), [("run", 1), ("picture", 4), ("keep", 8)])
def test_duplicates(make_options, pictures, said, duplicates, rows):
    options = make_options(types={"detail": 8}, judge={"duplicates": duplicates})
    result = generate(options, source=pictures(4), teacher=said(lambda _: "Always the same long text about a cat on its mat."))
    assert result.written is not None
    assert sum(result.written.rows.values()) == rows


def test_a_repair_is_asked_under_a_key_of_its_own(make_options, pictures, said, good_answer):
    def say(request):
        return "Short." if request.messages[-1].content.startswith("A mat") else good_answer(request)

    teacher = said(say)
    result = generate(make_options(types={"detail": 6}, repair=1), source=pictures(), teacher=teacher)
    assert len({request.key for request in teacher.asked}) == len(teacher.asked) == 12
    assert result.written is not None
    assert result.written.rows == {"detail": 6}
    assert result.written.rejected == {"too_short": 6}


def test_samples_without_captions_and_pictures_that_cannot_be_read(make_options, pictures, said):
    result = generate(make_options(types={"detail": 4}), source=pictures(6, bare=(2,), bad=(4,)), teacher=said())
    assert [row["id"] for row in rows_of(result)] == ["p0/detail", "p1/detail", "p3/detail", "p5/detail"]
    assert [row["reason"] for row in rows_of(result, "skipped.jsonl")] == ["no_captions", "bad_row"]
    with pytest.raises(DataError, match=r"none of 2 samples can be asked about: 2 no_captions"):
        generate(make_options(to=str(result.folder) + "2"), source=pictures(2, bare=(0, 1)), teacher=said())


def test_a_cut_line_is_asked_again(make_options, pictures, said):
    options = make_options(types={"detail": 6})
    result = generate(options, source=pictures(), teacher=said())
    journal = result.folder / "answers.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    teacher = said()
    generate(options, source=pictures(), teacher=teacher)
    assert len(teacher.asked) == 1


def test_folders_that_are_not_ours(make_options, pictures, said, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds no answers.jsonl; expected a new folder"):
        generate(make_options(), source=pictures(), teacher=said())
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        generate(make_options(to=str(tmp_path / "file")), source=pictures(), teacher=said())
    options = make_options(to=str(tmp_path / "mine"))
    generate(options, source=pictures(), teacher=said())
    other = make_options(to=str(tmp_path / "mine"), source={"type": "dogs"})
    with pytest.raises(DataError, match=r'was begun with the source {"type": "cats"}, and this is {"type": "dogs"}'):
        generate(other, source=pictures(), teacher=said())


def test_tokens_and_cost(make_options, pictures, said):
    priced = make_options(types={"detail": 6}, price={"input": 10, "output": 20})
    result = generate(priced, source=pictures(), teacher=said())
    assert result.estimated == 0
    assert result.cost == pytest.approx((result.input_tokens * 10 + result.output_tokens * 20) / 1e6)
    assert result.input_tokens > 1000
    uncounted = generate(
        make_options(types={"detail": 6}, to=str(result.folder) + "2"), source=pictures(), teacher=said(counted=False)
    )
    assert uncounted.estimated == 6
    assert uncounted.cost is None
    assert uncounted.input_tokens == pytest.approx(result.input_tokens * 5 / 4, rel=0.01)


def test_pictures_without_boxes_are_told(make_options, pictures, said):
    from dataclasses import replace

    class NoBoxes(pictures):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return replace(sample, annotations=replace(sample.annotations, boxes=()))

    told = []
    generate(make_options(types={"detail": 6}), source=NoBoxes(6), teacher=said(), hooks=Hooks(tell=told.append))
    assert told == ["6 of 6 pictures have no boxes: captions are all that is told of them"]
