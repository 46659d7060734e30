"""What the kernels register, and what a machine without a GPU is told."""

from __future__ import annotations

import pytest
import torch

import llava_kit_kernels
from llava_kit.assemble.parts import choose
from llava_kit.errors import PluginError
from llava_kit.model.loss import ReferenceLoss
from llava_kit.registry.manager import default_registry
from llava_kit.splice.reference import ReferenceSplicer
from llava_kit_kernels.loss import TritonLoss
from llava_kit_kernels.splicer import TritonSplicer

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
REFERENCES = {"splicer": ReferenceSplicer, "loss": ReferenceLoss}
OURS = {"splicer": TritonSplicer, "loss": TritonLoss}


@NO_GPU
@pytest.mark.parametrize("kind", REFERENCES)
def test_without_a_gpu_one_line_says_why_and_auto_takes_plain_torch(kind, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(PluginError) as caught:
        choose(kind, "triton")
    assert str(caught.value) == (
        f"{kind} 'triton' cannot run here: it needs a CUDA device, and there is none; use 'auto' or 'reference'"
    )
    assert type(choose(kind, "auto")) is REFERENCES[kind]


@NO_GPU
@pytest.mark.parametrize("kind", REFERENCES)
def test_interpreted_it_runs_where_it_is_asked_for_and_auto_does_not_ask(kind):
    assert type(choose(kind, "triton")) is OURS[kind]
    assert type(choose(kind, "auto")) is REFERENCES[kind]


@pytest.mark.parametrize("kind", REFERENCES)
def test_auto_takes_what_was_measured_to_be_faster(kind, monkeypatch):
    entry = default_registry().get(kind, "triton")
    monkeypatch.setattr(type(entry), "why_faster", lambda self: "3 times" if self.name == "triton" else None)
    assert type(choose(kind, "auto")) is OURS[kind]


def test_other_reasons_are_told_too(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(llava_kit_kernels, "cuda_capability", lambda: (7, 5))
    assert llava_kit_kernels.why_unavailable() == "it needs compute capability 8.0 (Ampere) or newer, found 7.5"
    monkeypatch.setattr(llava_kit_kernels, "cuda_capability", lambda: (9, 0))
    assert llava_kit_kernels.why_unavailable() is None
    monkeypatch.setattr(llava_kit_kernels.importlib.util, "find_spec", lambda name: None)
    assert "triton is not installed" in str(llava_kit_kernels.why_unavailable())
