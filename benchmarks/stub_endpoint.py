"""An OpenAI-compatible endpoint on this machine that is slow, full of faults, and writes down all that it is asked.

Which fault a request meets follows from its `Idempotency-Key` and from how often it came, so the faults are the same for every
run. What it answers follows from the key and the prompt alone: whoever asks again is told the same.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WRONG_JSON = b'{"choices": [{"message": {"content": "cut o'
# Of a thousand requests so many meet each fault on their first try; half as many on the second, and so on.
FAULTS = {"429": 80, "500": 80, "cut": 50, "cut_body": 30, "wrong_json": 40, "no_choices": 20}
# Of a thousand answers so many are of no use; the client must see that, since the endpoint calls them good.
POOR = {"empty": 30, "duplicate": 40, "wrong_form": 20, "caption": 20, "length": 10}


@dataclass
class Stub:
    """The endpoint. `served` counts whole answers by key, `asked` all requests; `most` the requests at a time, by generation.

    A generation is one client process: its requests may still be held here when the next one begins.
    """

    delay: float = 0.01
    faults: Mapping[str, int] = field(default_factory=lambda: FAULTS)
    key: str | None = None
    status: int | None = None  # answers everything so
    served: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    most: Counter[int] = field(default_factory=Counter)
    generation: int = 0
    order: list[str] = field(default_factory=list)

    def __enter__(self) -> Stub:
        self._inside: Counter[int] = Counter()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=512))
        self.port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await _read(reader):
                headers, body = request
                generation = self.generation
                self._inside[generation] += 1
                self.most[generation] = max(self.most[generation], self._inside[generation])
                try:
                    if not await self._answer(headers, json.loads(body), writer):
                        break
                finally:
                    self._inside[generation] -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, headers: Mapping[str, str], body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Answers one request; whether the connection lives on."""
        key = headers.get("idempotency-key", "")
        self.asked[key] += 1
        self.order.append(key)
        number = int(key[:8], 16) if key else 0
        await asyncio.sleep(self.delay * (1 + number % 7))
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            said = headers.get("authorization", "nothing")  # as careless servers do
            return await _send(writer, 401, {"error": {"code": "invalid_api_key", "message": f"wrong key: {said}"}})
        if self.status is not None:
            return await _send(writer, self.status, {"error": {"message": f"model {body.get('model')} does not exist"}})
        fault = _drawn(number * 2654435761 + self.asked[key] * 97, self.faults, self.asked[key])
        if fault is not None:
            self.met[fault] += 1
            return await _fail(fault, writer)
        alive = await _send(writer, 200, completion(key, body))
        self.served[key] += 1
        return alive


def completion(key: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request: a function of its key and its prompt."""
    number = int(key[:8], 16)
    poor = _drawn(number * 40503 + 11, POOR, 1)
    text = "" if poor == "empty" else _text("0" if poor == "duplicate" else key, body["messages"][0]["content"])
    if poor == "wrong_form":
        text = f"Sure! Here it is.\nQuestion: {text}\n===\nAnswer:"
    elif poor == "caption":
        text = text.replace("can be seen", "is said in the caption", 1)
    letters = sum(len(message["content"]) for message in body["messages"])
    return {
        "model": body["model"],
        "choices": [
            {"message": {"role": "assistant", "content": text}, "finish_reason": "length" if poor == "length" else "stop"}
        ],
        "usage": {"prompt_tokens": letters // 4, "completion_tokens": len(text) // 4},
    }


def _text(key: str, system: str) -> str:
    """A text in the form that the prompt of its type asks for."""
    told = f"The thing numbered {key} can be seen near the middle, and everything around it is as quiet as one would expect."
    if "Write a conversation" in system:
        turns = [("What is shown?", told), (f"Is there a second {key}?", "No, only this one is in the picture.")]
    elif "Invent one question" in system:
        turns = [("What could come next, and why?", f"{told} So it will probably stay there.")]
    else:
        return told
    return "\n".join(f"Question:\n{question}\n===\nAnswer:\n{answer}\n===" for question, answer in turns)


def _drawn(number: int, shares: Mapping[str, int], times: int) -> str | None:
    """One of `shares` (of a thousand, halved each time), or None."""
    place = number % 1000
    for name, share in shares.items():
        place -= share >> (times - 1)
        if place < 0:
            return name
    return None


async def _read(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes] | None:
    line = await reader.readline()
    if not line:
        return None
    headers: dict[str, str] = {}
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    return headers, await reader.readexactly(int(headers.get("content-length", 0)))


async def _send(writer: asyncio.StreamWriter, status: int, body: Any, more: str = "") -> bool:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n{more}\r\n"
    writer.write(head.encode("ascii") + data)
    await writer.drain()
    return True


async def _fail(fault: str, writer: asyncio.StreamWriter) -> bool:
    """Meets a request with a fault; whether the connection lives on."""
    if fault == "429":
        return await _send(writer, 429, {"error": {"message": "too fast"}}, "Retry-After: 0.05\r\n")
    if fault == "500":
        return await _send(writer, 500, {"error": {"message": "the server fell over"}})
    if fault == "wrong_json":
        return await _send(writer, 200, WRONG_JSON)
    if fault == "no_choices":
        return await _send(writer, 200, {"object": "chat.completion", "choices": []})
    if fault == "cut_body":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n" + WRONG_JSON)
        await writer.drain()
    writer.transport.abort()
    return False
