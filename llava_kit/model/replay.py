"""Decoding steps that are recorded once, in CUDA graphs, and replayed: one launch a token instead of a thousand.

N rows, S positions of the prompt, D width.

Reading the weights of a 7B model takes an H200 some 3 ms; launching the operations of a step one by one takes its host longer.
A graph is bound to addresses and shapes, so everything a step touches stays where it is: tokens, logits, a `ReplayableCache`.
What a step sees is a prefix of the cache whose length is rounded up, with one graph for each such length: the first step of a
length runs as it is (which also warms everything up), the second is recorded, the others are replayed. Blocks that were
compiled are recorded like any others.

What it costs: buffers for prompt and answer at their full agreed length, 2 * layers * N * length * key heads * head width *
bytes: at 7B in half precision 0.5 GiB for each 1,024 positions of a row. They are kept, up to a quarter of the device's memory,
for the next request with as many rows, which then records nothing again. Besides: memory for the inner results of one step,
which all graphs share, and for each recorded length the graph itself and the time of launching a step once more.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from threading import Lock
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..core.language_model import LanguageModel, ReplayableCache
from .steps import Steps

_log = logging.getLogger(__name__)

# Lengths are rounded up to a multiple of this, and from 4,096 on to an eighth of the power of two below: what is read in vain
# stays under an eighth of the cache, and a context of 32K needs 40 graphs and not 128. Fused attention wants masks whose rows
# begin at multiples of 16 bytes, which these lengths give it.
_GRAIN = 256

# A device keeps at most so many caches that nobody uses, and no more than this share of its memory in them.
_MOST_IDLE, _IDLE_SHARE = 4, 0.25

# Operations that ask the device for a value, or for the size of their result; and copies, which do where devices differ. Some
# consist of others, and are seen whole or in parts depending on whether gradients could be asked for.
_WAITING = """
item _local_scalar_dense is_nonzero equal nonzero nonzero_numpy argwhere masked_select _unique2 unique_dim unique_consecutive
"""
_READS = frozenset(_WAITING.split())
_COPIES = frozenset(["to", "_to_copy", "copy_"])


class Recorder(Protocol):
    """Records steps: functions that work on tensors which stay where they are."""

    idle_bytes: int
    """How much memory caches may hold while nobody uses them."""

    def run(self, step: Callable[[], None]) -> None:
        """Runs the step once, as it will be run when it is recorded."""
        ...

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """What does the same as `step`, which is looked at but not carried out."""
        ...


class CudaGraphs:
    """Records steps in CUDA graphs that share one pool of memory: at any time one of them runs, on one stream."""

    def __init__(self, device: torch.device):
        self.idle_bytes = int(_IDLE_SHARE * torch.cuda.get_device_properties(device).total_memory)
        self._device = device
        self._memory = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def run(self, step: Callable[[], None]) -> None:
        """As `Recorder.run`: on the stream on which it will be recorded, so that libraries have their workspaces there."""
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            step()
        here.wait_stream(self._stream)

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """As `Recorder.record`. Other threads may go on using the device meanwhile."""
        graph = torch.cuda.CUDAGraph()
        captured = torch.cuda.graph(graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local")
        # Where recording fails, `torch.cuda.graph` leaves its stream the current one.
        here = torch.cuda.stream(torch.cuda.current_stream(self._device))
        with torch.cuda.device(self._device), here, captured:
            step()
        return graph.replay


class HostReads(TorchDispatchMode):
    """Watches operations; `found` names the first that makes the host wait for the device or moves values between them."""

    def __init__(self):
        super().__init__()
        self.found: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        reads = name in _READS or (name == "index" and any(_is_mask(index) for index in args[1]))
        if name in _COPIES:
            reads = len({tensor.device for tensor in (*args[:2], result) if isinstance(tensor, Tensor)}) > 1
        if reads and self.found is None:
            self.found = name
        return result


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


class StepReplay:
    """`Steps` over one cache that stays, lent to one request at a time; what was recorded stays with it."""

    def __init__(self, model: LanguageModel, cache: ReplayableCache, recorder: Recorder):
        self.model, self.recorder = model, recorder
        self.cache: ReplayableCache | None = cache
        self.length = cache.length
        self.tokens = torch.zeros_like(cache.left_padding)  # [N]
        self.logits = self.tokens.new_empty(0)  # [N, vocab], made after the first prompt
        self.recorded: dict[int, Callable[[], None]] = {}
        self.refused: str | None = None
        self._watched = False
        self._warm: set[int] = set()
        self._filled = 0
        self._instead: Steps | None = None
        self._make_instead: Callable[[], Steps] | None = None

    def restart(self, padding: Tensor | None, instead: Callable[[], Steps]) -> None:
        """A new request, padded on the left by int64 [N]; `instead` makes steps for it where there is no room for the cache."""
        assert self.cache is not None
        self.cache.restart(padding)
        self._filled, self._make_instead = 0, instead

    def read(self, rows: Tensor) -> Tensor:
        """As `Steps.read`: the prompt's shape is another each time, so it is never recorded."""
        try:
            return self._read(rows)
        except torch.OutOfMemoryError:
            # Buffers of the full length do not fit; those that grow with the answer may.
            self.refused = "its cache does not fit into the memory"
        # Out of the `except`, which would still hold what the failed step had made.
        assert self._make_instead is not None
        self.cache = None
        self.recorded.clear()
        torch.cuda.empty_cache()
        self._instead = self._make_instead()
        return self._instead.read(rows)

    def _read(self, rows: Tensor) -> Tensor:
        assert self.cache is not None
        self._filled = rows.shape[1]
        positions = torch.arange(self._filled, device=rows.device) - self.cache.left_padding[:, None]
        hidden = self.model(rows, positions.clamp_(min=0), cache=self.cache)
        logits = self.model.logits(hidden[:, -1])
        if self.logits.shape != logits.shape:
            self.logits = torch.empty_like(logits)
        return logits

    def next(self, tokens: Tensor) -> Tensor:
        """As `Steps.next`."""
        if self._instead is not None:
            return self._instead.next(tokens)
        assert self.cache is not None
        assert self._filled < self.length
        self._filled += 1
        visible = min(self.length, round_up(self._filled))
        self.cache.freeze(visible)
        self.tokens.copy_(tokens)
        (self.recorded.get(visible) or self._unrecorded(visible))()
        return self.logits

    def _unrecorded(self, visible: int) -> Callable[[], None]:
        """What does a step that sees `visible` places and was not recorded yet."""
        if self.refused is not None:
            return self._step
        if not self._watched:
            self._watched = True
            return self._watch
        if visible not in self._warm:
            self._warm.add(visible)
            return partial(self.recorder.run, self._step)
        try:
            self.recorded[visible] = self.recorder.record(self._step)
        except Exception as error:
            # The first error says what went wrong, later ones that the recording was broken off.
            first = error.__context__ or error
            self.refused = (str(first).strip().splitlines() or [type(first).__name__])[0]
        return self.recorded.get(visible, self._step)

    def _watch(self) -> None:
        # Compiled blocks cannot be watched. Where nothing is compiled, asking for it would take seconds to load.
        uncompiled = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
        with uncompiled, HostReads() as reads:
            self._step()
        if reads.found is not None:
            self.refused = f"a step makes the host wait for the device ({reads.found})"

    def _step(self) -> None:
        """From `self.tokens` to `self.logits`; all that it touches stays where it is."""
        cache, model = self.cache, self.model
        assert cache is not None
        positions = (cache.place - cache.left_padding)[:, None]
        hidden = model(F.embedding(self.tokens, model.embedding)[:, None], positions, cache=cache)
        self.logits.copy_(model.logits(hidden[:, -1]))


class ReplayPool:
    """Lends `StepReplay`s to requests, and steps of another kind where nothing can be recorded.

    `recorder`: what records on a device; None where nothing is recorded.
    """

    def __init__(self, model: LanguageModel, recorder: Callable[[torch.device], Recorder | None] | None = None):
        self._model = model
        self._make_recorder = recorder or _cuda_graphs
        self._recorder: Recorder | None = None
        self._idle: list[StepReplay] = []  # the one used last is the last
        self._weights: list[int] = []
        self._refused = False
        self._lock = Lock()

    @contextmanager
    def lend(self, batch: int, length: int, padding: Tensor | None, instead: Callable[[], Steps]) -> Iterator[Steps]:
        """Steps for `batch` rows of at most `length` positions, padded on the left by int64 [N]; `instead` makes others."""
        replay = self._take(batch, length)
        if replay is None:
            yield instead()
            return
        replay.restart(padding, instead)
        try:
            yield replay
        finally:
            self._give_back(replay)

    def _take(self, batch: int, length: int) -> StepReplay | None:
        model = self._model
        device = model.embedding.device
        with self._lock:
            # A recorded step does what it did then: it draws nothing, and casts no weights that were changed since.
            if self._refused or model.training or torch.is_autocast_enabled(device.type):
                return None
            if self._recorder is None:
                self._recorder = self._make_recorder(device)
                if self._recorder is None:
                    return None
            tensors = [*model.parameters(), *model.buffers()]
            if not all(type(tensor) in (Tensor, nn.Parameter) and tensor.device == device for tensor in tensors):
                return self._refuse("its weights are sharded, quantised or on several devices")
            # It reads the weights where they lay, too: where they were moved since, everything is recorded anew.
            weights = [tensor.data_ptr() for tensor in tensors]
            if weights != self._weights:
                self._idle.clear()
                self._weights, self._recorder = weights, self._make_recorder(device)
            assert self._recorder is not None
            rows = [replay for replay in self._idle if len(replay.tokens) == batch]
            fitting = [replay for replay in rows if replay.length >= length]
            if fitting:
                self._idle.remove(fitting[-1])
                return fitting[-1]
            # A conversation grows: the next cache is longer by half than those that have become too short.
            for replay in rows:
                length = max(length, replay.length * 3 // 2)
                self._idle.remove(replay)
            cache = model.new_replayable_cache(batch, round_up(length))
            if cache is None:
                return self._refuse(f"{type(model).__name__} has no cache for it")
            return StepReplay(model, cache, self._recorder)

    def _give_back(self, replay: StepReplay) -> None:
        with self._lock:
            if replay.cache is None:
                _log.warning("this answer was decoded without CUDA graphs: %s", replay.refused)
                return
            if replay.refused is not None:
                self._refuse(replay.refused)
                return
            if replay.recorder is not self._recorder:  # the weights have moved meanwhile
                return
            self._idle.append(replay)
            while len(self._idle) > _MOST_IDLE or sum(map(_num_bytes, self._idle)) > replay.recorder.idle_bytes:
                self._idle.pop(0)

    def _refuse(self, reason: str) -> None:
        self._refused = True
        self._idle.clear()
        _log.warning("decoding goes on without CUDA graphs: %s", reason)


def _cuda_graphs(device: torch.device) -> CudaGraphs | None:
    return CudaGraphs(device) if device.type == "cuda" else None


def _num_bytes(replay: StepReplay) -> int:
    return 0 if replay.cache is None else replay.cache.num_bytes


def round_up(length: int) -> int:
    """The length up to which a step sees, or a cache reaches, that needs `length` positions."""
    grain = max(_GRAIN, 1 << max(0, (length - 1).bit_length() - 4))
    return -(-length // grain) * grain
