"""What answers cost, and how much may be on its way."""

from llava_kit.core.annotations import Annotations
from llava_kit.core.teacher import ChatMessage, TeacherAnswer, TeacherRequest
from llava_kit.datagen.answers import Answers
from llava_kit.datagen.cost import Budget, tokens_of
from llava_kit.recipe.generate import Price

REQUEST = TeacherRequest("0" * 32, "detail", (ChatMessage("user", "x" * 4000),), Annotations(), 0, max_tokens=500)


def test_what_is_on_its_way_counts_at_its_most(tmp_path):
    with Answers(tmp_path / "a.jsonl") as answers:
        budget = Budget(Price(input=1000, output=2000), 3.0, answers)
        assert budget.spent == 0
        assert budget.most(REQUEST) == 2.0  # 1,000 tokens in, at most 500 out
        assert budget.reserve(2.0)
        assert not budget.reserve(2.0)
        answers.add(REQUEST, TeacherAnswer("y", "m", "stop", 900, 50))
        budget.release(2.0)
        assert budget.spent == 1.0
        assert budget.reserve(2.0)


def test_without_a_price_nothing_is_known_and_all_is_allowed(tmp_path):
    with Answers(tmp_path / "a.jsonl") as answers:
        budget = Budget(None, None, answers)
        assert budget.spent is None
        assert budget.reserve(budget.most(REQUEST))
        assert tokens_of(REQUEST, answers) == 1500
