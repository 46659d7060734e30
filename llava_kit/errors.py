"""What a user is told when something is wrong: one family of errors, each with an exit code, and the nearest right name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any


class LlavaKitError(Exception):
    """A user's mistake or a fault of the outside world, told as: found, expected, nearest, what to do.

    The command line prints the message alone (no traceback) and ends with `exit_code`.
    """

    exit_code = 2


class RecipeError(LlavaKitError):
    """A recipe that cannot be used. `problems` holds every mistake found, one line each."""

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class PluginError(LlavaKitError):
    """A plugin that is broken, unknown, unavailable on this machine, or in conflict with another."""


class DataError(LlavaKitError):
    """Data that cannot be read or used."""

    exit_code = 3


class SampleError(DataError):
    """One sample that cannot be trained on or asked. The run goes on; the sample goes to quarantine.

    `reason` is a short stable code (`missing_image`, `empty_answer`, `too_long`, ...) that counts and scripts can group by.
    `readable` is what could be read of the sample all the same, for whoever wants all its mistakes; it is not handed on between
    processes.
    """

    def __init__(self, reason: str, message: str, *, sample_id: str | None = None, readable: Any = None):
        self.reason = reason
        self.message = message
        self.sample_id = sample_id
        self.readable = readable
        super().__init__(message if sample_id is None else f"sample {sample_id!r}: {message}")

    def __reduce__(self):
        # A worker process hands this error to the main process by pickling it.
        return _sample_error, (self.reason, self.message, self.sample_id)


def _sample_error(reason: str, message: str, sample_id: str | None) -> SampleError:
    return SampleError(reason, message, sample_id=sample_id)


class CheckpointError(LlavaKitError):
    """A checkpoint that is missing, damaged, or does not fit."""

    exit_code = 4


class UnsafeError(LlavaKitError):
    """A stranger's file that would take too much memory or time; it was not used."""


class TrainingError(LlavaKitError):
    """A run that had to stop: a loss that is not a number, a full disk, a bad-sample budget that is spent."""

    exit_code = 1


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` was most likely meant to be, or None when nothing is near."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return found[0] if found else None


def suggest(name: str, names: Iterable[str]) -> str:
    """The tail of an error about an unknown name: `did you mean 'x'?` or the list of what there is."""
    known = sorted(names)
    best = nearest(name, known)
    if best is not None:
        return f"did you mean {best!r}?"
    return f"known: {', '.join(known)}" if known else "there is none"


def first_line(error: BaseException) -> str:
    """Another library's error in one line: its type and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# Keys as services write them, what stands after Bearer or Basic, names and passwords in addresses, keys in their queries.
_SECRETS = re.compile(
    r"\b(?:sk|pk|rk|gsk|hf|key|xai|nvapi)[-_][A-Za-z0-9_*.\-]{6,}|(?<=\bbearer )[^\s,;'\"]{6,}|(?<=\bbasic )[A-Za-z0-9+/=]{6,}"
    r"|(?<=://)[^/\s@]+@|(?<=[?&])(?:[a-z_\-]*key|token|secret|password|auth)=[^&\s'\"]+",
    re.IGNORECASE,
)


def hidden(text: str) -> str:
    """The text without anything that looks like a key or a password."""
    return _SECRETS.sub("[hidden]", text)


def shorten(problems: Sequence[str], limit: int = 5) -> str:
    """The first `limit` of the problems in one line, and how many more there are."""
    rest = len(problems) - limit
    return "; ".join(problems[:limit]) + (f"; and {rest} more" if rest > 0 else "")
