"""Where measurements are kept: JSON files that name the device and the versions they were made with, and count nowhere else.

Those that ship lie in `tables/` of the package (none does until a GPU was measured: a file holds what was measured on the
device that it names, nothing else). The user's own lie under `$LLAVA_KIT_CACHE/kernels`, else
`$XDG_CACHE_HOME/llava_kit/kernels`, else `~/.cache/llava_kit/kernels`; LLAVA_KIT_AUTOTUNE=0 leaves them out.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import triton

SHIPPED = Path(__file__).parent.parent / "tables"


@functools.cache
def device_name(device: torch.device) -> str:
    """The GPU's name, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def own_path(device: torch.device, kind: str) -> Path | None:
    """Where the user's measurements of a `kind` on this device lie or would lie; None where there is no home to write to."""
    folder, versions = _cache_folder(), f"torch{_minor(torch.__version__)}-triton{_minor(triton.__version__)}"
    return folder and folder / f"{kind}-{_slug(device_name(device))}-{versions}.json"


def read_all(device: torch.device, kind: str) -> list[tuple[str, Path, dict[str, Any]]]:
    """Every file of a `kind` that is for this device and these versions, with a word for it: shipped ones first."""
    paths = [("shipped table", path) for path in sorted(SHIPPED.glob(f"{kind}-*.json"))]
    own = own_path(device, kind)
    if own is not None and os.environ.get("LLAVA_KIT_AUTOTUNE") != "0":
        paths.append(("your table", own))
    return [(word, path, content) for word, path in paths if (content := read(path, device)) is not None]


def read(path: Path, device: torch.device) -> dict[str, Any] | None:
    """A file's content if it is for this device and these versions; a broken one is a warning and None."""
    try:
        content = json.loads(path.read_text())
        return content if {key: content[key] for key in _stamp(device)} == _stamp(device) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        refuse(path, error)
        return None


def refuse(path: Path, error: Exception) -> None:
    """One warning that `path` is broken."""
    problem = f"{type(error).__name__}: {error}"
    warnings.warn(f"{path} is no table of kernels ({problem}) and is not used; delete it or tune again", stacklevel=3)


def write(device: torch.device, kind: str, content: dict[str, Any]) -> Path | None:
    """Writes the user's file of a `kind`, all or nothing, and gives its path; None (and a warning) if it cannot be written.

    Two processes that write at once leave the file of one of them.
    """
    path = own_path(device, kind)
    if path is None:
        return None
    try:
        _replace(path, json.dumps({**_stamp(device), **content}, indent=1) + "\n")
    except OSError as error:
        warnings.warn(f"the table of kernels could not be written to {path}: {error}", stacklevel=2)
        return None
    return path


def _replace(path: Path, text: str) -> None:
    """Writes beside the file and renames: who reads sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def _stamp(device: torch.device) -> dict[str, str]:
    """What a measurement was made with. The last part of a version changes no kernel."""
    return {"device": device_name(device), "torch": _minor(torch.__version__), "triton": _minor(triton.__version__)}


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


def _cache_folder() -> Path | None:
    own, shared = os.environ.get("LLAVA_KIT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own, "kernels")
    if shared:
        return Path(shared, "llava_kit", "kernels")
    try:
        return Path.home() / ".cache" / "llava_kit" / "kernels"
    except RuntimeError:
        return None
