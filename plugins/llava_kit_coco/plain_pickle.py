"""Lists, dicts, texts and numbers from a pickle that may be anybody's: whatever it asks to be imported or called is refused.

RefCOCO is published as pickles. A pickle is a program; this reader runs only its instructions for plain data.
"""

from __future__ import annotations

import io
import os
import pickle
from typing import Any

from llava_kit.errors import DataError, UnsafeError

# RefCOCO's are 15 to 25 MB. Nothing that is read can take more than a fixed multiple of this.
MAX_BYTES = 256 << 20


# The reader in C is five times as fast, but it makes room for as many memos as a pickle says it has: ten bytes cost 30 GB.
class _PlainUnpickler(pickle._Unpickler):  # type: ignore[reportAttributeAccessIssue]
    def find_class(self, module: str, name: str) -> Any:
        raise UnsafeError(f"it asks for {module}.{name} to be imported")

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafeError("it asks for objects from elsewhere")

    def get_extension(self, code: int) -> Any:
        raise UnsafeError("it asks for an extension")


def read_plain_pickle(path: str) -> Any:
    """What the pickle holds, if that is plain data.

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
    try:
        # Written by Python 2, whose texts were bytes.
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8", errors="replace").load()
    except UnsafeError as error:
        raise UnsafeError(
            f"{path}: is a pickle of more than plain data: {error}; it was not run. If you trust "
            "it, write the list as JSON yourself"
        ) from None
    except (Exception, RecursionError, MemoryError) as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{path}: is no pickle that can be read ({type(error).__name__}: {str(error)[:80]})") from None
