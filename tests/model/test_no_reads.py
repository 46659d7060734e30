"""Nothing in a training step reads a value back from the device.

Proved without one: fake tensors may lie on a GPU that is not there, take exactly its branches, and have no values, so whatever
asks for one raises. And counted on real tensors: calls by which Python reads, operations that must know a size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import varlen
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.common import count_host_reads, count_operations
from llava_kit.core.splice import _map_tensors
from llava_kit.data.collate import Batch
from llava_kit.recipe.schema import Stage
from llava_kit.splice.build import Built
from llava_kit.splice.fixed import fill_up
from llava_kit.train.optim import Optimizers, set_trainable

from .fake_backward import gradients

KINDS = {
    "packed": {},
    "blended": {"blended": True},
    "text_only": {"pictures": False},
    "padded": {"packed": False},
}

PRECISIONS = ("bfloat16", "autocast", "float32")


@pytest.fixture
def fake(monkeypatch) -> FakeTensorMode:
    """The mode in which tensors are fake; torch is told that the GPU is a Hopper, which it would look up."""
    for name in ("_should_use_cudnn", "_cudnn_version_and_major_capability"):
        if hasattr(varlen, name):  # they came with torch 2.15
            monkeypatch.setattr(varlen, name, lambda index, name=name: True if name == "_should_use_cudnn" else (91900, 9))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return FakeTensorMode()


@contextmanager
def autocast() -> Iterator[None]:
    """`torch.autocast("cuda", torch.bfloat16)`, which refuses where there is no GPU."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", before)
        torch.clear_autocast_cache()


class Copies(TorchDispatchMode):
    """Counts copies from the CPU to the GPU: from memory that is not pinned each waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        name = operation.overloadpacket.__name__
        if name in ("_to_copy", "copy_") and result.device.type == "cuda":
            self.names += [name for tensor in args if isinstance(tensor, Tensor) and tensor.device.type == "cpu"]
        return result


def to_gpu(mode: FakeTensorMode, model: nn.Module) -> None:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                moved = mode.from_tensor(parameter).detach().to("cuda")
                module._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = mode.from_tensor(buffer).to("cuda")


def arguments(mode: FakeTensorMode, tiles: Tensor, built: Built):
    def move(tensor: Tensor) -> Tensor:
        return mode.from_tensor(tensor).to("cuda")

    return move(tiles), _map_tensors(built.plan, move), *map(move, built[1:])


@pytest.mark.parametrize(
    ("kind", "decoder", "precision", "filled"),
    [
        *(("packed", decoder, precision, False) for decoder in ("llama", "mistral") for precision in PRECISIONS),
        ("packed", "mistral", "autocast", True),
        ("packed", "gemma", "bfloat16", False),
        ("packed", "qwen2", "autocast", False),
        ("packed", "llama", "float32", True),
        *(("blended", "mistral", "bfloat16", filled) for filled in (False, True)),
        ("blended", "llama", "autocast", True),
        *(("text_only", "llama", "bfloat16", filled) for filled in (False, True)),
        *(("padded", "mistral", precision, False) for precision in PRECISIONS),
    ],
)
def test_forward_and_backward_on_a_gpu_that_is_not_there(
    fake, monkeypatch, real_model, random_batch, kind, decoder, precision, filled
):
    calls = []
    fused = varlen.varlen_attn
    monkeypatch.setattr(
        "llava_kit_causal_lm.attention.varlen_attn", lambda *args, **kwargs: calls.append(kwargs) or fused(*args, **kwargs)
    )
    model = real_model(decoder).to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
    tiles, built = random_batch(0, **KINDS[kind])
    if filled:
        built = fill_up(built, newlines=True)
    with fake:
        to_gpu(fake, model)
        given = arguments(fake, tiles, built)
        with Copies() as copies:
            with autocast() if precision == "autocast" else nullcontext():
                loss = model(*given)
            found = gradients(loss)
    assert (loss.device.type, loss.dtype, loss.shape) == ("cuda", torch.float32, ())
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert {name: found[parameter].shape for name, parameter in model.named_parameters()} == shapes
    assert copies.names == []
    # Packed sequences really went the way they go on a GPU: one kernel a layer.
    assert len(calls) == (2 if built.plan.sequences.packed and precision != "float32" else 0)
    if calls and decoder == "mistral":
        assert calls[0]["window_size"] == (5, 0)
    with pytest.raises(RuntimeError):
        loss.item()
