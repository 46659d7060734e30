"""Every answer that ever came, by the key of its request: on the disk as soon as it is here, in memory only its place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from json import loads
from pathlib import Path
from time import monotonic
from typing import Any

from ..core.teacher import TeacherAnswer, TeacherRequest
from ..errors import DataError
from ..store.journal import Journal

# Bytes of a prompt's text for each token where no endpoint counted: about four letters of English (OpenAI's rule of thumb).
LETTERS_PER_TOKEN = 4.0
# The end of the program loses nothing at all; the end of the machine's power at most the answers of so many seconds.
SYNC_SECONDS = 5.0


class Answers:
    """A journal of answers that survives kill -9; what was bought by it in all, tokens by tokens.

    Usage that a teacher did not count is taken from letters; `estimated` says for how many answers.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._journal = Journal(path, {"what": "answers of a teacher, by request"})
        self._places: dict[bytes, int] = {}
        self.input_tokens = self.output_tokens = self.estimated = 0
        self.counted_letters = self.counted_tokens = 0
        with open(path, "rb") as file:
            place = len(file.readline())
            for number, line in enumerate(file, 2):
                if line.endswith(b"\n"):
                    try:
                        self._take(loads(line), place)
                    except (ValueError, KeyError, TypeError, RecursionError):
                        self._journal.close()
                        raise DataError(
                            f"{path}:{number}: is damaged ({line[:20]!r}...); expected an answer. Take that line out (`sed -i "
                            f"{number}d`): what it held is asked again, and all else is kept"
                        ) from None
                place += len(line)
        self._end, self._synced = place, monotonic()
        self._reader = open(path, "rb")  # noqa: SIM115 - closed by `close`

    @property
    def path(self) -> Path:
        return self._journal.path

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._places

    def get(self, key: str) -> TeacherAnswer | None:
        """The answer to the request of this key, if it ever came."""
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        self._reader.seek(place)
        entry = loads(self._reader.readline())
        return TeacherAnswer(entry["text"], entry["model"], entry["finish"], entry["input"], entry["output"])

    def add(self, request: TeacherRequest, answer: TeacherAnswer, **more: Any) -> None:
        """Keeps an answer; when this returns it survives the end of the program. `more` is for people: tries, time."""
        entry = {
            "key": request.key,
            "text": answer.text,
            "model": answer.model,
            "finish": answer.finish,
            "input": answer.input_tokens,
            "output": answer.output_tokens,
            "letters": [letters_of(request), len(answer.text)],
            **more,
        }
        self.adopt(entry)

    def adopt(self, entry: Mapping[str, Any]) -> bool:
        """Keeps an entry of another such journal; whether it is new here."""
        if entry["key"] in self:
            return False
        self._journal.append(entry)
        self._take(entry, self._end)
        self._end = os.path.getsize(self.path)
        if monotonic() - self._synced > SYNC_SECONDS:
            self._journal.sync()
            self._synced = monotonic()
        return True

    @property
    def letters_per_token(self) -> float:
        """Letters of a prompt for each of its tokens, as this teacher counted so far; else four."""
        return self.counted_letters / self.counted_tokens if self.counted_tokens else LETTERS_PER_TOKEN

    @property
    def output_mean(self) -> float | None:
        """Tokens of an answer on average; None before the first."""
        return self.output_tokens / len(self._places) if self._places else None

    def close(self) -> None:
        self._journal.close()
        self._reader.close()

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, entry: Mapping[str, Any], place: int) -> None:
        self._places[bytes.fromhex(entry["key"])] = place
        letters, said = entry["letters"]
        if entry["input"]:  # some endpoints count one side alone
            self.counted_letters += letters
            self.counted_tokens += entry["input"]
        self.input_tokens += entry["input"] or round(letters / LETTERS_PER_TOKEN)
        self.output_tokens += entry["output"] or round(said / LETTERS_PER_TOKEN)
        self.estimated += not (entry["input"] and (entry["output"] or not said))


def letters_of(request: TeacherRequest) -> int:
    """Letters of the whole prompt."""
    return sum(len(message.content) for message in request.messages)
