"""Where Liger cannot be used one line says why; nothing of it is imported before it is wanted."""

import subprocess
import sys

import pytest
import torch

import llava_kit_liger
from llava_kit.assemble.parts import choose
from llava_kit.errors import PluginError
from llava_kit_causal_lm import CausalLmOptions, build_causal_lm
from llava_kit_causal_lm.liger import apply_patch, find_patch

GPT2 = {"model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 2}


@pytest.fixture
def not_installed(monkeypatch):
    find_spec = llava_kit_liger.importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "liger_kernel" else find_spec(name))


def test_a_missing_package(not_installed):
    assert llava_kit_liger.why_unavailable() == ("the package liger-kernel is not installed (pip install 'llava-kit[liger]')")
    with pytest.raises(PluginError, match=r"liger-kernel is not installed; pip install 'llava-kit\[liger\]', or .*plain"):
        find_patch("llama")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_a_missing_device(monkeypatch):
    pytest.importorskip("liger_kernel")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert llava_kit_liger.why_unavailable() == "it needs a CUDA device, and there is none"
    with pytest.raises(PluginError, match="loss 'liger' cannot run here: it needs a CUDA device"):
        choose("loss", "liger")
    with pytest.raises(
        PluginError, match=r"found 'liger' and a model on cpu; Liger needs a CUDA device; write `kernels: plain`"
    ):
        apply_patch(print, torch.nn.Linear(1, 1), torch.device("cpu"))


def test_an_architecture_that_liger_does_not_know():
    pytest.importorskip("liger_kernel")
    with pytest.raises(
        PluginError, match=r"of type 'gpt2', which Liger does not know; write `kernels: plain` \(it knows .*llama"
    ):
        build_causal_lm(CausalLmOptions(config=GPT2, kernels="liger"), weights=False)


def test_a_patch_that_fails_is_told(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")

    def patch(model, rms_norm=True):
        raise TypeError("The model must be another one")

    with pytest.raises(PluginError, match=r"Liger's patch cannot change Linear \(TypeError: The model must be another one\)"):
        apply_patch(patch, torch.nn.Linear(1, 1), torch.device("cpu"))


def test_nothing_of_it_is_imported_before_it_is_wanted():
    program = (
        "import sys; from llava_kit.registry.manager import default_registry as r; r().get('loss', 'liger').why_unavailable(); "
        "assert not {'torch', 'liger_kernel'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
