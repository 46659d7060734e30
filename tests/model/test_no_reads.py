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
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.utils._python_dispatch import TorchDispatchMode
from toy import make_stage, make_trainer

from benchmarks.common import count_host_reads, count_operations
from llava_kit.core.splice import _map_tensors
from llava_kit.data.collate import Batch
from llava_kit.data.loader import StepData
from llava_kit.recipe.schema import ComponentTraining, Optimizer
from llava_kit.splice.build import Built
from llava_kit.splice.fixed import fill_up
from llava_kit.train.finite import FiniteWatch
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


@pytest.mark.parametrize("optimizer", [{"type": "adamw"}, {"type": "muon"}], ids=["adamw", "muon"])
def test_clipping_and_stepping_on_a_gpu_that_is_not_there(fake, real_model, optimizer):
    model = real_model()
    components = {name: ComponentTraining(lr=0.1) for name in ("connector", "language_model")}
    set_trainable(model, components)
    with fake:
        to_gpu(fake, model)
        optimizers = Optimizers(model, components, Optimizer(**optimizer))
        # torch makes a part of the state in the first step.
        for step in range(2):
            for parameter in optimizers.parameters.values():
                parameter.grad = torch.empty_like(parameter)
            with Copies() as copies:
                norm = get_total_norm(optimizers.gradients())
                clip_grads_with_norm_(list(optimizers.parameters.values()), 1.0, norm)
                optimizers.set_rate(0.5)
                optimizers.step()
            assert norm.device.type == "cuda"
            assert not step or copies.names == []
    assert {row["optimizer"] for row in optimizers.describe()} == {"adamw", optimizer["type"], None}


@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_backward_counted_on_the_cpu(real_model, random_batch, kind):
    model = real_model("mistral")
    tiles, built = random_batch(0, **KINDS[kind])
    with count_host_reads() as reads, count_operations() as operations:
        model(tiles, *built).backward()
    assert not reads
    assert operations.reads == operations.names["_local_scalar_dense"] == 0


@pytest.mark.parametrize("optimizer", [{"type": "adamw"}, {"type": "muon"}], ids=["adamw", "muon"])
def test_a_training_step_counted_on_the_cpu(tmp_path, monkeypatch, optimizer):
    """All but the look at the loss, which on the CPU comes at once."""
    looks = []
    monkeypatch.setattr(FiniteWatch, "look", lambda self, *about: looks.append(about))
    stage = make_stage(steps=4, optimizer=optimizer, clip_norm=1.0, log_every=100)
    trainer = make_trainer(tmp_path, stage)
    steps = iter(trainer.data(0))
    for _ in range(3):
        with count_host_reads() as reads, count_operations() as operations:
            trainer._step(next(steps))
        assert not reads
        assert operations.reads == operations.names["_local_scalar_dense"] == 0
    assert len(looks) == 3


def test_everything_of_a_batch_is_pinned(monkeypatch, random_batch):
    pinned = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    tiles, built = random_batch(0, blended=True)
    batch = Batch(tiles, *fill_up(built, newlines=True), sample_ids=(), num_tokens=1, num_targets=1)
    StepData(0, 0, (batch,), (), 0, 0).pin_memory()
    expected: list[Tensor] = []
    _map_tensors(built.plan, lambda tensor: expected.append(tensor) or tensor)
    assert len(built.plan.blends) == 2
    assert len(expected) == 6 + 1 + 6 + 2 * 6
    assert len(pinned) == len(expected) + 4  # tiles, position ids, the two lists of targets


def test_copies_do_not_wait(monkeypatch, random_batch):
    asked = []
    moved = Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda t, device, non_blocking=False: asked.append(non_blocking) or moved(t, "cpu"))
    tiles, built = random_batch(0, blended=True)
    Batch(tiles, *built, sample_ids=(), num_tokens=1, num_targets=1).to("cpu", non_blocking=True)
    assert len(asked) == 29
    assert all(asked)
