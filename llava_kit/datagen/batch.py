"""Asking by file: the requests of a Batch API are written, and its results are read into the same answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.teacher import TeacherError, TeacherRequest
from ..errors import DataError, first_line
from .run import Work

# The limits of OpenAI's Batch API for one input file.
MAX_REQUESTS = 50_000
MAX_BYTES = 200_000_000

Show = Callable[..., None]


def pending(work: Work, show: Show) -> Iterator[tuple[str, TeacherRequest]]:
    """(sample id, request) of all that is not known and can be asked now, each request once."""
    seen: set[bytes] = set()
    index, sample = -1, None
    for number, task in enumerate(work.plan):
        if sample is None or task.index != index:
            index, sample = task.index, work.source[task.index]
        request = work.asking.settle(task, sample, work.answers.get)
        show(number + 1, len(work.plan))
        if isinstance(request, TeacherRequest) and (key := bytes.fromhex(request.key)) not in seen:
            seen.add(key)
            yield sample.id, request


def write_batch(work: Work, path: str | Path, show: Show) -> list[tuple[Path, int]]:
    """Writes every request that is not answered; gives the files and how many requests each holds.

    A batch that is larger than the Batch API takes becomes several files: `requests.jsonl`, `requests-2.jsonl`, ...

    Raises:
        DataError: a file is there already, or cannot be written.
    """
    first = Path(path)
    files: list[tuple[Path, int]] = []
    lines: list[bytes] = []
    size = 0

    def put() -> None:
        to = first if not files else first.with_name(f"{first.stem}-{len(files) + 1}{first.suffix}")
        try:
            with open(to, "xb") as file:
                file.writelines(lines)
        except FileExistsError:
            raise DataError(f"{to}: is there already; name a new file, or remove it") from None
        except OSError as error:
            raise DataError(f"{to}: cannot be written: {error.strerror}") from None
        files.append((to, len(lines)))

    for _, request in pending(work, show):
        line = json.dumps(work.teacher.batch_line(request)).encode("ascii") + b"\n"
        if lines and (len(lines) == MAX_REQUESTS or size + len(line) > MAX_BYTES):
            put()
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    if lines:
        put()
    return files


@dataclass
class BatchRead:
    """What results held: answers that are new, known before, of requests that nobody here made; errors; lines that are none."""

    new: int = 0
    known: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    missing: int = 0


def read_batch(work: Work, paths: Sequence[str | Path], show: Show) -> BatchRead:
    """Takes the answers of result files (in any order, error files too) into the answers of this folder.

    Raises:
        DataError: a file cannot be read, or not one line of it is a result.
    """
    for path in paths:
        if not Path(path).is_file():
            raise DataError(f"{path}: there is no such file; expected the results of a batch, JSON lines with custom_id")
    wanted = {request.key: request for _, request in pending(work, show)}
    found = BatchRead()
    for path in paths:
        _read_file(work, Path(path), wanted, found)
    found.missing = len(wanted)
    return found


def _read_file(work: Work, path: Path, wanted: dict[str, TeacherRequest], found: BatchRead) -> None:
    results = 0
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    results += _read_line(work, f"{path}:{number}", text, wanted, found)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}") from None
    if not results:
        raise DataError(
            f"{path}: holds no result; expected JSON lines with custom_id and response, as the Batch API writes them"
            + (f" ({found.broken[-1]})" if found.broken else "")
        )


def _read_line(work: Work, place: str, text: str, wanted: dict[str, TeacherRequest], found: BatchRead) -> bool:
    """Takes one line; whether it is a result at all."""
    try:
        line = json.loads(text)
        key = line["custom_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        found.broken.append(f"{place}: is no JSON object with a custom_id")
        return False
    if not isinstance(key, str) or ("response" not in line and "error" not in line):
        found.broken.append(f"{place}: holds neither response nor error")
        return False
    request = wanted.get(key)
    if request is None:
        if _is_key(key) and key in work.answers:
            found.known += 1
        else:
            found.foreign.append(key)
        return True
    try:
        answer = work.teacher.batch_answer(line)
    except TeacherError as error:
        found.errors[error.reason] = found.errors.get(error.reason, 0) + 1
        found.examples.setdefault(error.reason, str(error))
        return True
    work.answers.add(request, answer, at=round(time.time(), 3), batch=True)
    del wanted[key]
    found.new += 1
    return True


def _is_key(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) > 0
    except ValueError:
        return False
