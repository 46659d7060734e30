"""The teacher behind an OpenAI-compatible endpoint: the real client against a local one; and no secret anywhere."""

import asyncio
import traceback

import pytest

from benchmarks.stub_endpoint import Stub
from llava_kit.assemble.build import build_part
from llava_kit.core.annotations import Annotations
from llava_kit.core.teacher import ChatMessage, TeacherError, TeacherRequest
from llava_kit.errors import LlavaKitError, RecipeError
from llava_kit.recipe.blocks import Part
from llava_kit_openai.teacher import _parsed

KEY = "sk-very-secret-0123456789"
REQUEST = TeacherRequest(
    "ab" * 16, "detail", (ChatMessage("system", "Describe."), ChatMessage("user", "A cat.")), Annotations(), 7
)


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("STUB_KEY", KEY)


def teacher_of(url="http://127.0.0.1:9/v1", **more):
    return build_part(
        "teacher", Part.model_validate({"type": "openai", "model": "m", "base_url": url, "key_env": "STUB_KEY", **more})
    )


def ask(teacher, request=REQUEST, tries=1):
    async def work():
        try:
            for _ in range(tries - 1):
                with pytest.raises(TeacherError):
                    await teacher.answer(request)
            return await teacher.answer(request)
        finally:
            await teacher.close()

    return asyncio.run(work())


def fault(teacher, request=REQUEST):
    with pytest.raises(TeacherError) as error:
        ask(teacher, request)
    told = "".join(traceback.format_exception(error.value))
    assert KEY not in told
    assert KEY[3:] not in told
    return error.value


def test_an_answer_with_its_usage():
    with Stub(delay=0, faults={}, key=KEY) as stub:
        answer = ask(teacher_of(stub.url), TeacherRequest("11" * 16, "detail", REQUEST.messages, Annotations(), 7))
    assert answer.model == "m"
    assert answer.finish == "stop"
    assert "numbered 1111" in answer.text
    assert answer.input_tokens > 0
    assert answer.output_tokens > 0
    assert list(stub.asked) == ["11" * 16]  # the Idempotency-Key


@pytest.mark.parametrize(
    ("name", "reason", "transient"),
    [
        ("429", "rate_limit", True),
        ("500", "server", True),
        ("cut", "connection", True),
        ("cut_body", "connection", True),
        ("wrong_json", "malformed", True),
        ("no_choices", "malformed", True),
    ],
)
def test_each_fault_has_its_word(name, reason, transient):
    with Stub(delay=0, faults={name: 1000}) as stub:
        error = fault(teacher_of(stub.url))
    assert (error.reason, error.transient) == (reason, transient)
    assert error.wait == (0.05 if name == "429" else None)


@pytest.mark.parametrize(
    ("status", "reason", "transient"),
    [
        (401, "credentials", False),
        (403, "credentials", False),
        (404, "not_found", False),
        (400, "refused", False),
        (503, "server", True),
    ],
)
def test_each_status_has_its_word(status, reason, transient):
    with Stub(delay=0, status=status) as stub:
        error = fault(teacher_of(stub.url))
    assert (error.reason, error.transient) == (reason, transient)
    assert "model m does not exist" in str(error)


def test_a_server_that_repeats_the_key_is_not_repeated():
    with Stub(delay=0, key="another") as stub:
        error = fault(teacher_of(stub.url))
    assert error.reason == "credentials"
    assert "wrong key: Bearer [hidden]" in str(error)
    assert "the key in STUB_KEY is not accepted" in str(error)


def test_nobody_listens():
    error = fault(teacher_of())
    assert (error.reason, error.transient) == ("connection", True)
    assert "http://127.0.0.1:9/v1" in str(error)


def test_no_credit_is_final(monkeypatch):
    teacher = teacher_of()
    error = teacher._of_status(429, {"retry-after": "5"}, "insufficient_quota You exceeded your quota")
    assert (error.reason, error.transient) == ("quota", False)
    error = teacher._of_status(429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, "")
    assert error.wait == 0.0


def test_the_key_is_in_the_environment_or_the_endpoint_wants_none(monkeypatch):
    monkeypatch.delenv("STUB_KEY")
    with pytest.raises(LlavaKitError, match=r"variable STUB_KEY is not set.*key_env: null"):
        teacher_of().ready()
    monkeypatch.setenv("STUB_KEY", f"{KEY} {KEY}")
    with pytest.raises(LlavaKitError, match="holds spaces") as error:
        teacher_of().ready()
    assert KEY not in str(error.value)
    with Stub(delay=0, faults={}) as stub:
        assert ask(
            teacher_of(stub.url, key_env=None), TeacherRequest("11" * 16, "detail", REQUEST.messages, Annotations(), 7)
        ).text


def test_a_key_goes_over_plain_http_to_this_machine_alone():
    with pytest.raises(LlavaKitError, match=r"would go to 10.0.0.5 over plain http.*allow_http: true") as error:
        teacher_of("http://10.0.0.5:8000/v1").ready()
    assert KEY not in str(error.value)
    for more in ({"allow_http": True}, {"key_env": None}):
        teacher_of("http://10.0.0.5:8000/v1", **more).ready()
    teacher_of("http://localhost:8000/v1").ready()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("key_env", KEY, "never write a key here"),
        ("base_url", f"https://me:{KEY}@host/v1", "holds a user name or a password"),
        ("base_url", "api.openai.com", "is no address"),
        ("base_url", "file:///etc/passwd", "is no address"),
        ("base_url", "https://host:99999/v1", "is no address"),
        ("base_url", f"https://host/v1?key={KEY}", "holds more than an address"),
        ("extra", {"model": "x"}, "model"),
        ("api_key", KEY, "unknown key"),
    ],
)
def test_options_that_are_wrong_and_keys_in_them(key, value, said):
    with pytest.raises(RecipeError, match=said) as error:
        teacher_of(**{key: value} if key != "base_url" else {"url": value})
    told = "".join(traceback.format_exception(error.value))
    assert KEY not in str(error.value)
    assert KEY not in told


def test_the_body_is_what_the_endpoint_takes():
    body = teacher_of(extra={"top_p": 0.5}, leave_out=["temperature"]).body(REQUEST)
    assert body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Describe."}, {"role": "user", "content": "A cat."}],
        "seed": 7,
        "max_tokens": 1024,
        "top_p": 0.5,
    }
    assert "max_completion_tokens" in teacher_of("https://api.openai.com/v1").body(REQUEST)
    line = teacher_of().batch_line(REQUEST)
    assert line["custom_id"] == REQUEST.key
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")


def test_answers_hang_on_the_model_and_what_is_added_not_on_the_address():
    assert teacher_of().fingerprint() == teacher_of("https://elsewhere/v1").fingerprint() == "m"
    prints = {
        teacher_of(**more).fingerprint() for more in ({}, {"extra": {"top_p": 1}}, {"leave_out": ["seed"]}, {"model": "n"})
    }
    assert len(prints) == 4


def test_lines_of_results():
    teacher = teacher_of()
    body = {
        "model": "m-1",
        "choices": [{"message": {"content": "A cat."}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3},
    }
    answer = teacher.batch_answer({"response": {"status_code": 200, "body": body}, "error": None})
    assert (answer.text, answer.model, answer.finish, answer.input_tokens, answer.output_tokens) == (
        "A cat.",
        "m-1",
        "length",
        3,
        0,
    )
    for line, reason in (
        ({"response": None, "error": {"code": "batch_expired", "message": "too late"}}, "refused"),
        ({"response": {"status_code": 500, "body": {}}, "error": None}, "server"),
        ({"response": {"status_code": 200, "body": {"choices": [{}]}}}, "malformed"),
        ({"response": {"status_code": 200, "body": {"choices": [{"message": {"content": 3}}]}}}, "malformed"),
        ({"response": {"status_code": 200, "body": None}}, "malformed"),
    ):
        with pytest.raises(TeacherError) as error:
            teacher.batch_answer(line)
        assert error.value.reason == reason


def test_a_text_in_parts_is_one_text():
    parts = [{"type": "text", "text": "A cat "}, {"type": "reasoning", "text": "hm"}, {"type": "text", "text": "sleeps."}]
    body = {"choices": [{"message": {"content": parts}}]}
    assert teacher_of().batch_answer({"response": {"status_code": 200, "body": body}}).text == "A cat sleeps."


def test_json_that_is_not_called_so_is_read():
    teacher = teacher_of()
    body = _parsed('{"choices": [{"message": {"content": "A cat."}}]}')
    assert teacher._read(body).text == "A cat."
    with pytest.raises(TeacherError, match="is no JSON"):
        _parsed("<html>gateway</html>")


def test_an_error_that_is_called_a_success_is_told_without_the_key():
    teacher = teacher_of()
    teacher.ready()
    body = {"error": {"code": 502, "message": f"upstream refused {KEY}"}}
    with pytest.raises(TeacherError, match="but says: 502 upstream refused") as error:
        teacher.batch_answer({"response": {"status_code": 200, "body": body}})
    assert KEY not in str(error.value)


def test_a_refusal_in_a_field_of_its_own_is_its_text():
    body = {"choices": [{"message": {"content": None, "refusal": "I cannot."}, "finish_reason": "stop"}]}
    assert teacher_of().batch_answer({"response": {"status_code": 200, "body": body}}).text == "I cannot."
