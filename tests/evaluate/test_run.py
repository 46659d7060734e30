"""The table and its baselines, on answers whose scores are known."""

import json

from llava_kit.core.conversation import Conversation, ImagePixels, Message, Sample
from llava_kit.evaluate.pictures import choose
from llava_kit.evaluate.run import Answer, Evaluation, tabulate, with_wrong_pictures


def _answer(type_, truth, reply, blind, group=()):
    conversation = Conversation((Message("user", ("what ?",)), Message("assistant", (truth,))))
    picture = ImagePixels(lambda: None, (1, 1), truth)
    sample = Sample(f"{type_}-{truth}-{reply}", conversation, (picture,))
    return Answer(sample, (type_, *group), reply, float(reply == truth), blind, float(blind == truth))


ANSWERS = [
    _answer("colour", "red", "red", "red", ("set_aside",)),
    _answer("colour", "red", "red", "blue"),
    _answer("colour", "blue", "red", "blue", ("set_aside",)),
    _answer("count", "one", "one", "two"),
]


def test_the_table():
    table = tabulate(ANSWERS, wrong_picture=True)
    assert table["accuracy"] == {"all": 0.75, "colour": 0.6667, "count": 1.0}
    assert table["wrong_picture"] == {"all": 0.5, "colour": 0.6667, "count": 0.0}
    # Two of three colours are red, the only count is one: blind guessing gets three of four.
    assert table["majority"] == {"all": 0.75, "colour": 0.6667, "count": 1.0}
    assert table["questions"] == 4
    assert table["groups"] == {"set_aside": {"accuracy": {"all": 0.5, "colour": 0.5}, "questions": 2}}
    assert "wrong_picture" not in tabulate(ANSWERS, wrong_picture=False)


def test_files(tmp_path):
    Evaluation(ANSWERS, 1.0, tabulate(ANSWERS, wrong_picture=True)).write(tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["questions"] == 4
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in rows] == ["red", "red", "red", "one"]


def test_wrong_pictures_are_others_and_as_many():
    samples = [a.sample for a in ANSWERS] + [Sample("text", ANSWERS[0].sample.conversation)]
    wrong = with_wrong_pictures(samples)
    for before, after in zip(samples[:4], wrong[:4]):
        assert after.images != before.images or after.images[0] is not before.images[0]
    assert wrong[4].images == ()
    assert sorted(s.images[0].name for s in wrong[:4]) == sorted(s.images[0].name for s in samples[:4])


def test_chosen_pictures_take_types_in_turn_and_show_a_mistake():
    chosen = choose(ANSWERS, 3)
    assert [answer.groups[0] for answer in chosen] == ["colour", "count", "colour"]
    assert chosen[2].score == 0
