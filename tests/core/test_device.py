"""The driver says the same of the first device as torch, without torch."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from llava_kit.core.device import cuda_capability

ASK = "import sys; from llava_kit.core.device import cuda_capability as ask; print(ask()); assert 'torch' not in sys.modules"


def test_says_what_torch_says_and_does_not_import_it():
    expected = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    assert cuda_capability() == expected
    told = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True).stdout
    assert told.strip() == str(expected)


def _driver(count=1, fails=()):
    """A driver of `count` devices of capability 9.0."""

    def answer(name, result=None):
        return lambda *given: 1 if name in fails else (result(*given) if result else 0)

    def attribute(number, which, device):
        number._obj.value = {75: 9, 76: 0}[which]
        return 0

    return SimpleNamespace(
        cuInit=answer("cuInit"),
        cuDeviceGet=answer("cuDeviceGet", lambda device, ordinal: 0 if ordinal < count else 101),
        cuDeviceGetAttribute=answer("cuDeviceGetAttribute", attribute),
    )


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        (_driver(), (9, 0)),
        (_driver(count=0), None),
        (_driver(fails=["cuInit"]), None),
        (_driver(fails=["cuDeviceGetAttribute"]), None),
    ],
)
def test_answers_of_the_driver(monkeypatch, driver, expected):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert cuda_capability() == expected
