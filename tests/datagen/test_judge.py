"""What may be learnt from, and each reason why not."""

import pytest

from llava_kit.core.annotations import Annotations, Box
from llava_kit.core.teacher import RESPONSE_TYPES, TeacherAnswer
from llava_kit.datagen.judge import Judge, fingerprint
from llava_kit.datagen.parse import Rejected, parse
from llava_kit.datagen.prompt_set import BUILT_IN, PromptSet, load_prompts
from llava_kit.recipe.generate import Judging

TOLD = Annotations(("A grey cat sleeps on a mat.", "There is a cat on the floor."), (Box("cat", 0, 0, 1, 1),))
GOOD = "A cat sleeps in the middle of the room, stretched out on a mat as if nothing could ever disturb it."


@pytest.fixture(scope="module")
def judge():
    return Judge(Judging(), load_prompts())


def why(judge, text, type="detail", told=TOLD, finish="stop"):
    try:
        judge.check(parse(text, type), TeacherAnswer(text, "m", finish), type, told)
    except Rejected as error:
        return error.reason
    return None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, None),
        (GOOD.replace("mat", "cardboard box"), "mentions_source"),
        ("According to the caption, a cat sleeps in the middle of the room on a mat.", "mentions_source"),
        ("The captions say that a cat sleeps in the middle of the room on a mat.", "mentions_source"),
        ("A cat lies within the bounding box given, in the middle of a quiet room.", "mentions_source"),
        ("A cat lies at the coordinates [0.1, 0.25, 0.5, 0.75] of a quiet room with a mat.", "mentions_source"),
        ("A cat lies at [0.1, 0.25, 0.5, 0.75] in the middle of a quiet room with a mat.", "mentions_source"),
        ("The description says that a cat sleeps in the middle of the room on a mat.", "mentions_source"),
        ("As an AI language model I describe: a cat sleeps in the middle of a room.", "refusal"),
        ("I cannot see the picture, but a cat might sleep in the middle of the room.", "refusal"),
        ("I'm sorry, but there is nothing that I could say of this cat on its mat.", "refusal"),
        ("A cat on a mat.", "too_short"),
        (GOOD + " </s> And then it wakes up.", "marks"),
        (GOOD + " <image>", "marks"),
        (GOOD + " <|im_end|>", "marks"),
        ("<think>\nThey want it described.\n</think>\n" + GOOD, "marks"),
        (" ".join([GOOD] * 5), "repetition"),
        (GOOD + " \x07", "junk"),
        (GOOD + " \N{REPLACEMENT CHARACTER}", "junk"),
        ("Кошка спит посреди комнаты на коврике и ничего не слышит, потому что в доме тихо.", "junk"),
        ("12 34 56 78 90 12 34 56 78 90 12 34 56 78 90 12 34", "junk"),
        ("word " * 2001, "too_long"),
    ],
)
def test_descriptions(judge, text, reason):
    assert why(judge, text) == reason


def test_a_box_may_be_spoken_of_where_there_is_one(judge):
    told = Annotations(("A cat in a box of oranges.",))
    assert why(judge, GOOD.replace("mat", "box"), told=told) is None
    assert why(judge, GOOD.replace("mat", "bounding box"), told=told) == "mentions_source"


def test_scripts_of_the_captions_may_be_written(judge):
    assert (
        why(
            judge,
            "Кошка спит посреди комнаты на коврике и ничего не слышит, потому что в доме тихо.",
            told=Annotations(("Кошка.",)),
        )
        is None
    )


def test_an_answer_that_was_cut_off_or_filtered(judge):
    assert why(judge, GOOD, finish="length") == "cut_off"
    assert why(judge, GOOD, finish="content_filter") == "refusal"


def test_examples_that_are_given_back_are_found(judge):
    for type in RESPONSE_TYPES:
        text = (BUILT_IN / type / "2.answer.txt").read_text(encoding="utf-8")
        assert why(judge, text, type) == "leaked_prompt"


def test_our_own_examples_are_what_we_ask_for():
    """Judged by prompts that do not hold them, each example is taken."""
    prompts = load_prompts()
    for type in RESPONSE_TYPES:
        for told, text in prompts.types[type].examples:
            others = {name: prompt for name, prompt in prompts.types.items() if name != type}
            judge = Judge(Judging(), PromptSet(others, ()))
            captions = tuple(told.partition("\n\n")[0].splitlines())
            assert why(judge, text, type, Annotations(captions)) is None


def test_a_question_that_gives_the_picture_away(judge):
    text = "Question:\n{}\n===\nAnswer:\nIt is tired, since it was out all night and hunted for mice.\n==="
    assert why(judge, text.format("Why does a grey cat sleeps on a mat?"), "reasoning") == "reveals"
    assert why(judge, text.format("Why is nobody moving here?"), "reasoning") is None
    lenient = Judge(Judging(reveals=False), load_prompts())
    assert why(lenient, text.format("Why does a grey cat sleeps on a mat?"), "reasoning") is None


def test_a_conversation_needs_turns_and_asks_nothing_twice(judge):
    one = "Question:\nWhat is it?\n===\nAnswer:\nA cat on a mat.\n===\n"
    assert why(judge, one, "conversation") == "too_few_turns"
    assert (
        why(judge, one + one.replace("A cat", "It is a cat").replace("What is it", "what IS it"), "conversation")
        == "repetition"
    )
    assert why(judge, one + one.replace("What is it", "Where is it"), "conversation") is None


def test_words_count_as_the_recipe_says():
    assert why(Judge(Judging(min_words={"detail": 3}), load_prompts()), "A cat sleeps here.") is None
    assert Judging(min_words={"detail": 3}).min_words["reasoning"] == Judging().min_words["reasoning"]


def test_duplicates_are_equal_but_for_case_and_punctuation():
    assert fingerprint((("What?", "A cat."),)) == fingerprint((("what", "a  CAT"),))
    assert fingerprint((("What?", "A cat."),)) != fingerprint((("What?", "A dog."),))
