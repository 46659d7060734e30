"""The teacher: a request becomes one chat completion, and whatever goes wrong one word with a plain sentence and no secret."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from time import time
from typing import Any
from urllib.parse import urlsplit

from llava_kit.core.teacher import Teacher, TeacherAnswer, TeacherError, TeacherRequest
from llava_kit.errors import LlavaKitError, PluginError, hidden

from . import OpenAiTeacherOptions

CHAT = "/chat/completions"
OPENAI_HOST = "api.openai.com"
_SAID = 200  # letters of a server's own words that are told on
HIDDEN = "[hidden]"


class OpenAiTeacher(Teacher):
    """Chat completions of one model. One try for each call: who calls counts and paces the tries."""

    def __init__(self, options: OpenAiTeacherOptions):
        self.options = options
        self._key: str | None = None
        host = urlsplit(options.base_url).hostname
        auto = "max_completion_tokens" if host == OPENAI_HOST else "max_tokens"
        self._length_key = auto if options.length_key == "auto" else options.length_key
        self._client: Any = None

    @property
    def name(self) -> str:
        return self.options.model

    def ready(self) -> None:
        """Reads the key. Raises `LlavaKitError`: there is none, or it would be sent where anybody can read it."""
        self._key = _key(self.options)

    def fingerprint(self) -> str:
        """The model with what its answers depend on; not the address, since servers move."""
        more = {"leave_out": sorted(self.options.leave_out), **self.options.extra}
        if not self.options.leave_out:
            del more["leave_out"]
        return f"{self.options.model} {json.dumps(more, sort_keys=True)}" if more else self.options.model

    async def answer(self, request: TeacherRequest) -> TeacherAnswer:
        """The completion. An `Idempotency-Key` lets a server that knows it bill a request once that is sent twice."""
        import openai

        client = self._connected(openai)
        try:
            # The client's door for any endpoint: its typed one walks through each prompt, for longer than all else here takes.
            body = await client.post(
                CHAT, cast_to=object, body=self.body(request), options={"headers": {"Idempotency-Key": request.key}}
            )
        except openai.APIStatusError as error:
            raise self._of_status(error.status_code, error.response.headers, _words_of(error.body)) from None
        except openai.APITimeoutError:
            raise TeacherError("timeout", f"{self.options.base_url} took too long", transient=True) from None
        except openai.APIConnectionError as error:
            raise self._of_connection(error) from None
        except (ValueError, RecursionError):
            raise _no_json() from None
        except openai.OpenAIError as error:  # a client that refuses its own settings
            raise TeacherError("refused", self.hidden(str(error)), transient=False) from None
        return self._read(_parsed(body) if isinstance(body, str) else body)

    def body(self, request: TeacherRequest) -> dict[str, Any]:
        """The request as the endpoint reads it."""
        said: dict[str, Any] = {
            "model": self.options.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "temperature": request.temperature,
            "seed": request.seed,
            self._length_key: request.max_tokens,
        }
        return {name: value for name, value in said.items() if name not in self.options.leave_out} | self.options.extra

    def batch_line(self, request: TeacherRequest) -> Mapping[str, Any]:
        """A line of OpenAI's Batch API."""
        return {"custom_id": request.key, "method": "POST", "url": f"/v1{CHAT}", "body": self.body(request)}

    def batch_answer(self, line: Mapping[str, Any]) -> TeacherAnswer:
        """The answer in a line of a Batch API's output or error file."""
        error, response = line.get("error"), line.get("response")
        if not isinstance(response, Mapping):
            raise TeacherError("refused", self.hidden(_words_of(error) or "the line holds no response"), transient=True)
        status, body = response.get("status_code"), response.get("body")
        if status != 200:
            raise self._of_status(status if isinstance(status, int) else 0, {}, _words_of(body) or _words_of(error))
        return self._read(body)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    def hidden(self, text: str) -> str:
        """A server's words in one short line, without anything that looks like a key or a password."""
        if self._key:
            text = text.replace(self._key, HIDDEN)
        text = hidden(" ".join(text.split()))
        text = "".join(letter for letter in text if letter.isprintable())
        return text if len(text) <= _SAID else f"{text[:_SAID]}..."

    def _connected(self, openai: Any) -> Any:
        if self._client is None:
            self.ready()
            # No tries and no time limit of its own: the caller has both. A server that wants no key gets a word for one.
            self._client = openai.AsyncOpenAI(
                base_url=self.options.base_url, api_key=self._key or "none", max_retries=0, timeout=None
            )
        return self._client

    def _read(self, body: Any) -> TeacherAnswer:
        try:
            choice = body["choices"][0]
            text, finish = _joined(choice["message"].get("content")), choice.get("finish_reason") or "stop"
            refusal = choice["message"].get("refusal")
        except (KeyError, IndexError, TypeError, AttributeError):
            # Some gateways answer 200 and tell their error in the body.
            words = self.hidden(_words_of(body["error"])) if isinstance(body, Mapping) and body.get("error") else ""
            told = f"the endpoint's answer has no choices[0].message{f', but says: {words}' if words else ''}"
            raise TeacherError("malformed", told, transient=True) from None
        if text is None:
            text = refusal or ""
        if not isinstance(text, str) or not isinstance(finish, str):
            raise TeacherError("malformed", "the endpoint's answer holds no text", transient=True)
        usage = body.get("usage") or {}
        model = body.get("model")
        return TeacherAnswer(
            text,
            model if isinstance(model, str) and model else self.options.model,
            finish,
            _count(usage, "prompt_tokens"),
            _count(usage, "completion_tokens"),
        )

    def _of_connection(self, error: BaseException) -> TeacherError:
        """A connection that was not made, or was cut; a certificate that is not trusted will not be the next time either."""
        cause = error.__cause__ or error
        what = self.hidden(str(cause)) or type(cause).__name__
        if "CERTIFICATE_VERIFY_FAILED" in what:
            return TeacherError("address", f"{self.options.base_url}: its certificate is not trusted", transient=False)
        if "unknown url type" in what.lower() or type(cause).__name__ in ("UnsupportedProtocol", "InvalidURL"):
            return TeacherError("address", f"{self.options.base_url} is no address: {what}", transient=False)
        return TeacherError("connection", f"no connection with {self.options.base_url}: {what}", transient=True)

    def _of_status(self, status: int, headers: Mapping[str, str], said: str) -> TeacherError:
        words = self.hidden(said)
        told = f"{self.options.base_url} answered {status}" + (f": {words}" if words else "")
        if status == 429:
            if "insufficient_quota" in said:
                return TeacherError("quota", f"{told} (no credit is left)", transient=False)
            return TeacherError("rate_limit", told, transient=True, wait=_wait(headers))
        if status in (401, 403):
            where = f"the key in {self.options.key_env}" if self.options.key_env else "no key was sent (key_env is null)"
            return TeacherError(
                "credentials", f"{told}; {where} is not accepted" if self._key else f"{told}; {where}", transient=False
            )
        if status == 404:
            return TeacherError(
                "not_found",
                f"{told}; is the model {self.options.model!r} there, and does base_url end before {CHAT}?",
                transient=False,
            )
        if status in (408, 409, 425) or status >= 500:
            return TeacherError("server", told, transient=True, wait=_wait(headers))
        return TeacherError("refused", told, transient=False)


def _key(options: OpenAiTeacherOptions) -> str | None:
    """The key from the environment; None where the endpoint wants none."""
    if options.key_env is None:
        return None
    key = os.environ.get(options.key_env, "").strip()
    if not key:
        raise LlavaKitError(
            f"teacher 'openai': the environment variable {options.key_env} is not set; put the key of {options.base_url} into "
            f"it (`export {options.key_env}=...`), or write `key_env: null` for an endpoint that wants none"
        )
    if not key.isascii() or any(letter.isspace() for letter in key):
        raise LlavaKitError(
            f"teacher 'openai': {options.key_env} holds spaces or letters that no key has; expected the key alone"
        )
    parts = urlsplit(options.base_url)
    if parts.scheme == "http" and not _is_this_machine(parts.hostname or "") and not options.allow_http:
        raise LlavaKitError(
            f"teacher 'openai': the key in {options.key_env} would go to {parts.hostname} over plain http, where anybody on "
            "the way can read it; use https, `key_env: null` if it wants no key, or `allow_http: true`"
        )
    return key


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def require_openai() -> None:
    """Raises `PluginError` where the client is not installed."""
    if find_spec("openai") is None:
        raise PluginError("teacher 'openai': the package openai is not installed; run `pip install 'llava-kit[generate]'`")


def _wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: `Retry-After` as a number or a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if seconds == seconds else None


def _words_of(body: Any) -> str:
    """What an error's body says, wherever the server put it."""
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        if isinstance(inner, Mapping):
            code, message = inner.get("code"), inner.get("message")
            return " ".join(str(part) for part in (code, message) if part)
        return str(inner)
    return "" if body is None else str(body)


def _parsed(text: str) -> Any:
    """The JSON of a server that does not call its answer so: the client gives that as a text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _no_json() from None


def _no_json() -> TeacherError:
    return TeacherError("malformed", "the endpoint's answer is no JSON", transient=True)


def _joined(content: Any) -> Any:
    """A text that came in parts as one; anything else as it is."""
    if isinstance(content, list) and content and all(isinstance(part, Mapping) for part in content):
        texts = [part.get("text") for part in content if part.get("type") == "text"]
        if all(isinstance(text, str) for text in texts):
            return "".join(texts) or None
    return content


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
