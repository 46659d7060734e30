"""What answers cost: by the tokens that the teacher counted, else by letters; before, while and after they are asked for."""

from __future__ import annotations

from ..core.teacher import TeacherRequest
from ..recipe.generate import Price
from .answers import Answers, letters_of

MILLION = 1_000_000


class Budget:
    """What was spent in this folder so far, and what requests on their way may still cost."""

    def __init__(self, price: Price | None, limit: float | None, answers: Answers):
        self.price, self.limit, self._answers = price, limit, answers
        self._reserved = 0.0

    @property
    def spent(self) -> float | None:
        """All that the answers of this folder cost; None without a price."""
        if self.price is None:
            return None
        return cost_of(self.price, self._answers.input_tokens, self._answers.output_tokens)

    def most(self, request: TeacherRequest) -> float:
        """What the request costs if its answer is as long as it may be."""
        if self.price is None:
            return 0.0
        return cost_of(self.price, letters_of(request) / self._answers.letters_per_token, request.max_tokens)

    def reserve(self, amount: float) -> bool:
        """Sets `amount` aside and says True, if with it the limit is kept whatever the answers are."""
        if self.limit is not None and (self.spent or 0.0) + self._reserved + amount > self.limit:
            return False
        self._reserved += amount
        return True

    def release(self, amount: float) -> None:
        self._reserved -= amount


def cost_of(price: Price, input_tokens: float, output_tokens: float) -> float:
    return (input_tokens * price.input + output_tokens * price.output) / MILLION


def tokens_of(request: TeacherRequest, answers: Answers) -> float:
    """Tokens that a request will take, answer included: as answers took so far, else letters by four and `max_tokens`."""
    return letters_of(request) / answers.letters_per_token + (answers.output_mean or request.max_tokens)
