"""How answers are chosen: every wrong value is told, at once."""

import pytest

from llava_kit.errors import LlavaKitError
from llava_kit.model.sampling import Sampling

WRONG = {
    "max_new_tokens": 0,
    "temperature": float("nan"),
    "top_p": 0.0,
    "top_k": -1,
    "min_p": 1.5,
    "repetition_penalty": 0,
    "num_beams": 1.0,
    "length_penalty": float("inf"),
    "stop": "###",
    "seed": -1,
}


def test_every_mistake_is_named():
    with pytest.raises(LlavaKitError) as error:
        Sampling(**WRONG)
    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == list(WRONG)
    assert all("expected" in line for line in lines)
    assert "found 1.5, expected a share from 0 to 1" in lines[4]


@pytest.mark.parametrize("changes", [{"temperature": "1"}, {"max_new_tokens": True}, {"stop": ["", "a"]}, {"seed": 2**63}])
def test_other_types_are_told(changes):
    with pytest.raises(LlavaKitError, match=next(iter(changes))):
        Sampling(**changes)


def test_what_is_right_is_taken():
    assert Sampling(stop=["a", "b"]).stop == ("a", "b")
    assert Sampling(temperature=1, top_p=1, seed=0) == Sampling(temperature=1.0, top_p=1.0, seed=0)
