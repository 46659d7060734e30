"""Lists, dicts, texts and numbers from a pickle that may be anybody's: instructions for anything else do not exist here.

RefCOCO is published as pickles, and a pickle is a program. Python's own reader would have to be kept from importing and calling
what the program asks for, and can still be made to take 30 GB by ten bytes (it makes room for as many memos as they say). This
one knows the instructions that build plain data, of protocols 0 to 5, and refuses a file at the first other.
"""

from __future__ import annotations

import codecs
import os
import pickletools
import struct
from collections.abc import Callable
from typing import Any

from llava_kit.errors import DataError, UnsafeError

# RefCOCO's are 15 to 25 MB. Nothing that is read can take more than a fixed multiple of this.
MAX_BYTES = 256 << 20

_NAMES = {ord(code.code): code.name for code in pickletools.opcodes}


def read_plain_pickle(path: str) -> Any:
    """What the pickle holds, if that is plain data. Texts of Python 2, which were bytes, are read as UTF-8.

    Raises:
        UnsafeError: it asks for more than plain data, or is too large; nothing of it was run.
        DataError: there is no such file, or it is damaged.
    """
    try:
        size = os.path.getsize(path)
        if size > MAX_BYTES:
            raise UnsafeError(f"{path}: has {size:,} bytes; a pickle of more than {MAX_BYTES:,} is not read; give it as JSON")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {os.strerror(error.errno or 0)} (relative to {os.getcwd()!r})") from error
    machine = _Machine(data)
    try:
        return machine.run()
    except UnsafeError as error:
        raise UnsafeError(
            f"{path}: is a pickle of more than plain data: {error}; nothing of it was run. If you trust "
            "it, write its list as JSON"
        ) from None
    except (IndexError, KeyError, ValueError, TypeError, AttributeError, struct.error, SyntaxError) as error:
        raise DataError(
            f"{path}: is no whole pickle: at byte {machine.place} of {len(data)} it breaks ({type(error).__name__}: "
            f"{str(error)[:60]})"
        ) from None


class _Machine:
    """Runs a program of plain data: `stack` has what is built, `marks` the stacks below, `memo` what may be named again."""

    def __init__(self, data: bytes):
        self.data, self.place = data, 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        data, steps = self.data, _STEPS
        while True:
            code = data[self.place]
            self.place += 1
            if code == _LONG_BINPUT:  # every other instruction of a large pickle; without a call a third of the time is saved
                self.memo[int.from_bytes(data[self.place : self.place + 4], "little")] = self.stack[-1]
                self.place += 4
                continue
            if code == _STOP:
                return self.stack.pop()
            step = steps.get(code)
            if step is None:
                raise UnsafeError(f"its instruction {_NAMES.get(code, code)} at byte {self.place - 1} builds no plain data")
            step(self)

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises IndexError where the file ends before."""
        end = self.place + count
        if not self.place <= end <= len(self.data):
            raise IndexError("the file ends")
        found = self.data[self.place : end]
        self.place = end
        return found

    def number(self, size: int, signed: bool = False) -> int:
        """The next `size` bytes as a whole number, the lowest first."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> bytes:
        """The bytes up to the end of the line."""
        end = self.data.index(b"\n", self.place)
        found, self.place = self.data[self.place : end], end + 1
        return found

    def since_mark(self) -> list[Any]:
        """What was built since the last mark; the stack is again what it was then."""
        found, self.stack = self.stack, self.marks.pop()
        return found

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []


def _fill(target: Any, items: list[Any]) -> None:
    """Puts keys and values, in turns, into a dict."""
    if type(target) is not dict:
        raise TypeError("items for what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (str, int):  # a tuple of tuples of tuples, hashed, overruns the stack of the interpreter
            raise TypeError("a key is neither text nor number")
        target[key] = value


def _extend(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise TypeError("items for what is no list")
    target.extend(items)


def _dict(items: list[Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    _fill(made, items)
    return made


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _quoted(line: bytes) -> str:
    """A text of protocol 0: as Python 2 printed it."""
    line = line.strip()
    if len(line) < 2 or line[0] != line[-1] or line[0] not in b"'\"":
        raise TypeError("a text without quotes")
    # Not `ast`: a line of a million minus signs would overrun its stack.
    return _text(codecs.escape_decode(line[1:-1])[0])


def _whole(line: bytes) -> Any:
    """A number of protocol 0; `00` and `01` are False and True."""
    return line == b"01" if line in (b"00", b"01") else int(line.rstrip(b"L"))


def _push(make: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(make(machine))


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        if len(machine.stack) < count:
            raise IndexError("the stack is empty")
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return step


def _remember(number: Callable[[_Machine], int]) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        machine.memo[number(machine)] = machine.stack[-1]

    return step


def _pop(machine: _Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.stack = machine.marks.pop()


def _long(size: int, signed: bool = False) -> Callable[[_Machine], int]:
    return lambda machine: machine.number(machine.number(size, signed), signed=True)


def _counted(size: int, signed: bool = False) -> Callable[[_Machine], str]:
    return lambda machine: _text(machine.take(machine.number(size, signed)))


def _made(make: Callable[[list[Any]], Any]) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        items = machine.since_mark()
        machine.stack.append(make(items))

    return step


def _put_in(put: Callable[[Any, list[Any]], None]) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        items = machine.since_mark()
        put(machine.stack[-1], items)

    return step


def _append(machine: _Machine) -> None:
    item = machine.stack.pop()
    _extend(machine.stack[-1], [item])


def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _fill(machine.stack[-1], [key, value])


_STOP, _LONG_BINPUT = ord("."), ord("r")
_BY_NAME: dict[str, Callable[[_Machine], Any]] = {
    "PROTO": lambda machine: machine.take(1),
    "FRAME": lambda machine: machine.take(8),
    "MARK": _Machine.mark,
    "POP": _pop,
    "POP_MARK": _Machine.since_mark,
    "EMPTY_LIST": _push(lambda machine: []),
    "EMPTY_DICT": _push(lambda machine: {}),
    "EMPTY_TUPLE": _push(lambda machine: ()),
    "LIST": _made(list),
    "DICT": _made(_dict),
    "TUPLE": _made(tuple),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": _append,
    "APPENDS": _put_in(_extend),
    "SETITEM": _set_item,
    "SETITEMS": _put_in(_fill),
    "NONE": _push(lambda machine: None),
    "NEWTRUE": _push(lambda machine: True),
    "NEWFALSE": _push(lambda machine: False),
    "INT": _push(lambda machine: _whole(machine.line())),
    "LONG": _push(lambda machine: _whole(machine.line())),
    "BININT": _push(lambda machine: machine.number(4, signed=True)),
    "BININT1": _push(lambda machine: machine.number(1)),
    "BININT2": _push(lambda machine: machine.number(2)),
    "LONG1": _push(_long(1)),
    "LONG4": _push(_long(4, signed=True)),
    "FLOAT": _push(lambda machine: float(machine.line())),
    "BINFLOAT": _push(lambda machine: struct.unpack(">d", machine.take(8))[0]),
    "STRING": _push(lambda machine: _quoted(machine.line())),
    "BINSTRING": _push(_counted(4, signed=True)),
    "SHORT_BINSTRING": _push(_counted(1)),
    "UNICODE": _push(lambda machine: machine.line().decode("raw-unicode-escape")),
    "SHORT_BINUNICODE": _push(_counted(1)),
    "BINUNICODE": _push(_counted(4)),
    "BINUNICODE8": _push(_counted(8)),
    "PUT": _remember(lambda machine: int(machine.line())),
    "BINPUT": _remember(lambda machine: machine.number(1)),
    "MEMOIZE": _remember(lambda machine: len(machine.memo)),
    "GET": _push(lambda machine: machine.memo[int(machine.line())]),
    "BINGET": _push(lambda machine: machine.memo[machine.number(1)]),
    "LONG_BINGET": _push(lambda machine: machine.memo[machine.number(4)]),
}
_STEPS = {code: _BY_NAME[name] for code, name in _NAMES.items() if name in _BY_NAME}
