"""Without a CUDA device the kernels run in Triton's interpreter, on the CPU.

Triton must be told before it is imported, and again when a kernel is defined: the variable is set while the tests are collected
(every test module imports its operations at its top) and while tests of this folder run, and for no other test, whose subprocesses
would inherit it.
"""

from __future__ import annotations

import os

import pytest
import torch

VARIABLE = "TRITON_INTERPRET"
_WAS_SET = VARIABLE in os.environ

if not torch.cuda.is_available():
    os.environ[VARIABLE] = "1"


def pytest_collection_finish(session):
    if not _WAS_SET:
        os.environ.pop(VARIABLE, None)


@pytest.fixture(autouse=True)
def _interpret(monkeypatch):
    if not torch.cuda.is_available():
        monkeypatch.setenv(VARIABLE, "1")
