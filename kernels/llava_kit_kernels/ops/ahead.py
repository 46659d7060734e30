"""Compiles kernels for a GPU that is not there and tells what they use of it: registers, stack, shared memory, tensor cores.

Triton compiles for a named target without a device, and its Linux wheels bring cuobjdump along. A kernel that spills
registers is thus found on any machine. Where Triton interprets (TRITON_INTERPRET=1) there is nothing to compile, so `usage_of`
does the work in a Python process of its own, without that variable.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .common import FUSION, AheadCase

# Hopper (H100, H200). A block may have 227 KiB of shared memory there (CUDA C++ programming guide, compute capability 9.0).
TARGET = GPUTarget("cuda", 90, 32)
MOST_SHARED = 227 * 1024


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel takes."""

    registers: int
    """Of one thread, at most 255."""
    stack: int
    """Bytes of one thread in slow local memory; more than 0 means that registers spill."""
    shared: int
    """Bytes of shared memory of one block."""
    has_wgmma: bool
    """Whether products run on Hopper's warp-group instructions."""


def compile_for(
    kernel: Any, signature: Mapping[str, str], constants: Mapping[str, Any], num_warps: int, num_stages: int
) -> Usage:
    """Compiles the kernel for `TARGET`, in half a second to three; Triton keeps the result.

    `signature` gives the types of the parameters: `*bf16` and so on for pointers, which are multiples of 16 bytes; `i32`, or
    `i32:16` for a number that is a multiple of 16, as Triton finds out at a launch. Parameters in `constants` need no type; a
    pointer that is None belongs there. Raises `RuntimeError` where Triton interprets: then there is no source to compile.
    """
    if not hasattr(kernel, "cache_key"):
        raise RuntimeError("TRITON_INTERPRET=1 makes kernels that cannot be compiled; ask `usage_of`, which unsets it")
    kinds = {name: "constexpr" if name in constants else signature[name] for name in kernel.arg_names}
    divisible = [place for place, kind in enumerate(kinds.values()) if kind.startswith("*") or kind.endswith(":16")]
    source = ASTSource(
        kernel,
        signature={name: kind.removesuffix(":16") for name, kind in kinds.items()},
        constexprs=dict(constants),
        attrs={(place,): [["tt.divisibility", 16]] for place in divisible},
    )
    compiled: Any = triton.compile(source, target=TARGET, options={"num_warps": num_warps, "num_stages": num_stages, **FUSION})
    registers, stack = _resources(compiled.asm["cubin"])
    return Usage(registers, stack, int(compiled.metadata.shared), "wgmma.mma_async" in compiled.asm["ptx"])


def usage_of(modules: Iterable[str], only: str = "") -> dict[str, Usage]:
    """Name of a case -> usage, of all cases in `ahead_of_time()` of these modules whose names match the expression `only`."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "usage.json")
        program = f"from {__name__} import _write_usage; _write_usage()"
        command = [sys.executable, "-c", program, str(result), only, *modules]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"compiling {', '.join(modules)} ahead of time failed:\n{done.stdout}{done.stderr}")
        return {name: Usage(**found) for name, found in json.loads(result.read_text()).items()}


def _write_usage() -> None:
    """In the process of its own: the result file, the expression, the modules."""
    result, only, *modules = sys.argv[1:]
    cases = [case for module in modules for case in importlib.import_module(module).ahead_of_time()]
    assert len({case.name for case in cases}) == len(cases), "two cases of one name"
    found = {case.name: _compile(case) for case in cases if re.search(only, case.name)}
    Path(result).write_text(json.dumps({name: asdict(usage) for name, usage in found.items()}))


def _compile(case: AheadCase) -> Usage:
    return compile_for(case.kernel, case.signature, case.constants, case.num_warps, case.num_stages)


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes of one thread, as cuobjdump of Triton's own wheel tells them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(cubin)
        told = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    if found is None:
        raise RuntimeError(f"expected 'REG:<n> STACK:<n>' in the output of {tool.name}, found: {told[-300:]}")
    return int(found[1]), int(found[2])
