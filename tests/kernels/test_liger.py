"""Liger's loss and Liger's kernels in a language model, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import functools
import importlib

import pytest
import torch

from llava_kit.errors import PluginError
from llava_kit.testing import LossCase, check_loss
from llava_kit_kernels.ops.common import INTERPRETED

pytest.importorskip("liger_kernel", reason="the extra `liger` is not installed")
HOME = "cpu" if INTERPRETED else "cuda"


def test_the_loss_keeps_the_contract():
    from llava_kit_liger.loss import LigerLoss

    # Capped logits only on a device: the interpreter cannot run Liger's tanh.
    cases = [
        LossCase("filled up", 41, num_targets=5, ignored=2, bias=True),
        LossCase("tied", 100, num_targets=3, tied=True),
        LossCase("no targets", 41, num_targets=0, bias=True),
        LossCase("head frozen", 17, num_targets=3, frozen=frozenset({"head"})),
        LossCase("hidden frozen", 17, num_targets=3, bias=True, frozen=frozenset({"hidden"})),
        LossCase("all frozen", 17, num_targets=3, frozen=frozenset({"hidden", "head"})),
    ]
    check_loss(LigerLoss(), torch.float32, HOME, cases if INTERPRETED else None)


def test_a_model_with_logits_of_its_own_is_refused():
    from llava_kit.testing.losses import head_model
    from llava_kit_liger.loss import LigerLoss

    *given, model = head_model(LossCase("some", 41), torch.float32, HOME)
    model.logits = model.logits
    with pytest.raises(PluginError, match=r"found HeadModel, which computes its logits itself; .*`loss: reference`"):
        LigerLoss()(*given, model)


LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}


@pytest.fixture
def rotary_of_llama(monkeypatch):
    """Liger changes this function of transformers for the whole process; here it is changed back."""
    modeling = importlib.import_module("transformers.models.llama.modeling_llama")
    monkeypatch.setattr(modeling, "apply_rotary_pos_emb", modeling.apply_rotary_pos_emb)


def _run(language_model, rows):
    positions = torch.arange(rows.shape[1], device=rows.device)[None].expand(len(rows), -1)
    hidden = language_model(rows, positions)
    names, parameters = zip(*language_model.decoder.layers.named_parameters())
    return hidden, dict(zip(names, torch.autograd.grad(hidden.square().sum(), parameters)))


def test_norms_are_changed_too(rotary_of_llama):
    from llava_kit_causal_lm import CausalLmOptions, build_causal_lm
    from llava_kit_causal_lm.liger import apply_patch, find_patch

    decoder = build_causal_lm(CausalLmOptions(config=LLAMA), weights=False).decoder
    apply_patch(find_patch("llama"), decoder, torch.device(HOME))
    changed = [module._get_name() for module in decoder.modules() if "forward" in vars(module)]
    assert sorted(changed) == ["LigerRMSNorm"] * 5 + ["LigerSwiGLUMLP"] * 2
    plain = build_causal_lm(CausalLmOptions(config=LLAMA), weights=False).decoder
    assert {type(plain.norm).__name__, type(plain.layers[0].mlp).__name__} == {"LlamaRMSNorm", "LlamaMLP"}
    assert not [module for module in plain.modules() if "forward" in vars(module)]


def test_a_patched_llama_equals_the_plain_one(rotary_of_llama, monkeypatch):
    from llava_kit_causal_lm import CausalLmOptions, build_causal_lm, language_model

    if (
        INTERPRETED
    ):  # it hands Liger's norm and MLP a Python number where they expect Triton's: rotary positions alone run there
        find_patch = language_model.find_patch
        rotary_alone = lambda model_type: functools.partial(find_patch(model_type), rms_norm=False, swiglu=False)  # noqa: E731
        monkeypatch.setattr(language_model, "find_patch", rotary_alone)
    built = []
    for kernels in ("plain", "liger"):
        torch.manual_seed(0)
        built.append(build_causal_lm(CausalLmOptions(config=LLAMA, kernels=kernels), weights=False).to(HOME))
    plain, patched = built
    patched.load_state_dict(plain.state_dict())
    rows = torch.randn(2, 5, 32, device=HOME)
    expected, expected_gradients = _run(plain, rows)
    with torch.device("meta"):
        counted = build_causal_lm(CausalLmOptions(config=LLAMA, kernels="liger"), weights=False)
    assert _run(counted, rows.to("meta"))[0].is_meta, "models are counted without kernels"
    found, gradients = _run(patched, rows)
    names = {type(module).__name__: module._get_name() for module in patched.modules()}
    assert INTERPRETED or (names["LlamaRMSNorm"], names["LlamaMLP"]) == ("LigerRMSNorm", "LigerSwiGLUMLP")
    modeling = importlib.import_module("transformers.models.llama.modeling_llama")
    assert modeling.apply_rotary_pos_emb.__name__ == "liger_rotary_pos_emb"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-3, atol=1e-4, msg=name)
