"""Without a CUDA device the kernels run in Triton's interpreter, on the CPU.

Triton must be told before it is imported, and again when a kernel is defined: the variable is set while the tests are
collected (every test module imports its operations at its top) and while tests of this folder run, and for no other test, whose
subprocesses would inherit it.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys

import pytest
import torch

VARIABLE = "TRITON_INTERPRET"
_WAS_SET = VARIABLE in os.environ


def _reinterpret() -> None:
    """Where another test's library has imported Triton already, its own functions (`tl.zeros`, `tl.sum`) are made anew."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    made: dict[int, InterpretedFunction] = {}  # one function has several names: tl.sum, tl.standard.sum
    for name, module in list(sys.modules.items()):
        if name.startswith("triton.language"):
            for key, value in list(vars(module).items()):
                if isinstance(value, JITFunction):
                    setattr(module, key, made.setdefault(id(value), InterpretedFunction(value.fn)))


if not torch.cuda.is_available():
    os.environ[VARIABLE] = "1"
    if "triton" in sys.modules:
        _reinterpret()


def pytest_collection_finish(session):
    if not _WAS_SET:
        os.environ.pop(VARIABLE, None)


@pytest.fixture(autouse=True)
def _interpret(monkeypatch):
    if not torch.cuda.is_available():
        monkeypatch.setenv(VARIABLE, "1")


@pytest.fixture(scope="session")
def home() -> str:
    """Where kernels run here."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def usage():
    """`usage(module, ...)`: name of a case -> what it takes of a Hopper GPU. One process compiles the cases of all modules."""
    from llava_kit_kernels import ops
    from llava_kit_kernels.ops.ahead import usage_of

    modules = [importlib.import_module(f"{ops.__name__}.{found.name}") for found in pkgutil.iter_modules(ops.__path__)]
    found = usage_of([module.__name__ for module in modules if hasattr(module, "ahead_of_time")])
    return lambda *modules: {case.name: found[case.name] for module in modules for case in module.ahead_of_time()}


@pytest.fixture(scope="session")
def poisoned(home):
    """`poisoned(rows, width, dtype)`: a buffer full of values that are not numbers; a row that nobody wrote shows."""

    def make(rows: int, width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.full((rows, width), float("nan"), dtype=dtype, device=home)

    return make
