"""Attention that is told who sees whom: packed sequences one by one, windows, left padding; no mask where none is needed.

B rows of S positions, K positions of keys (those in the cache included), H heads, G key heads, E width of a head, W a window:
a position sees itself and the W - 1 before it.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from llava_kit import LlavaKitError
from llava_kit.core.splice import Sequences

NAME = "llava_kit_segments"
"""Under this name transformers finds `attend`. No mask function has it, so transformers itself builds no masks."""

ARGUMENT = "llava_kit_view"
"""The keyword argument by which the `View` travels through the layers of a transformers model."""

# The first releases of torch's variable-length attention knew no windows, the next ones no `enable_gqa`.
_VARLEN_KNOWS = frozenset(inspect.signature(varlen_attn).parameters)
_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_HALF = (torch.bfloat16, torch.float16)

# What other architectures pass to their attention and this one does not compute.
_FOREIGN = ("softcap", "s_aux", "position_bias", "head_mask")


@dataclass(frozen=True)
class View:
    """Who sees whom in one forward pass, made once for all layers.

    `packed`: where the sequences of the flattened batch lie, if some row holds several. `masks`: for each window in use, bool
    [1 or B, 1, S, K] (packed: [L, L] of the longest sequence, of which each takes its corner), True where a position is seen,
    or numbers to add to the scores; None where causal order is all. `fused`: packed sequences go through one kernel of this
    type, which needs no masks.
    """

    masks: Mapping[int | None, Tensor | None]
    packed: Sequences | None = None
    fused: torch.dtype | None = None


def make_view(
    shape: tuple[int, int],
    device: torch.device,
    windows: Collection[int | None],
    *,
    sequences: Sequences | None = None,
    fused: torch.dtype | None = None,
    past: int = 0,
    left_padding: Tensor | None = None,
) -> View:
    """The view of `shape` = (B, S) new positions after `past` ones in a cache; reads no value of a tensor, so nothing waits."""
    if sequences is None or not sequences.packed:
        return View({window: _mask(shape[1], past, window, left_padding, device) for window in windows})
    if fused is not None:
        return View(dict.fromkeys(windows), sequences, fused)
    if _recorded(device):
        seen = _same_sequence(shape, sequences, device)
        return View({window: _near(seen, window) for window in windows})
    return View({window: _mask(sequences.longest, 0, window, None, device) for window in windows}, sequences)


def make_step_view(
    place: Tensor, visible: int, windows: Collection[int | None], *, left_padding: Tensor | None, dtype: torch.dtype
) -> View:
    """The view of one new position at `place` (int64 [1], on the device) in buffers of which the first `visible` places count.

    No shape depends on `place` and nobody reads it, so a recorded step may make this view again. The masks are numbers of the
    type `dtype` of queries, 0 or -inf, [1 or B, 1, 1, visible]: of a bool mask each layer would make such numbers anew.
    """
    key = torch.arange(visible, device=place.device)
    seen = (key <= place)[None]
    if left_padding is not None:
        seen = seen & (key >= left_padding[:, None])
    masks: dict[int | None, Tensor | None] = {}
    for window in windows:
        near = seen if window is None or window >= visible else seen & (key > place - window)
        hidden = near.logical_not()[:, None, None]
        masks[window] = torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, float("-inf"))
    return View(masks)


def packed_mask(rows: Tensor, sequences: Sequences, *, additive: bool) -> Tensor:
    """[B, S, D] -> [B, 1, S, S] for transformers' own attentions: bool, or `additive` numbers of the rows' type."""
    seen = _same_sequence((rows.shape[0], rows.shape[1]), sequences, rows.device)
    if not additive:
        return seen
    lowest = torch.finfo(rows.dtype).min
    return torch.zeros_like(seen, dtype=rows.dtype).masked_fill_(~seen, lowest)


def _same_sequence(shape: tuple[int, int], sequences: Sequences, device: torch.device) -> Tensor:
    """bool [B, 1, S, S]: the position is of the same sequence, and not a later one."""
    batch, length = shape
    place = torch.arange(batch * length, device=device)
    # Which sequence each position belongs to: as many as end at or before it.
    member = torch.bucketize(place, sequences.offsets[1:].long(), right=True).view(batch, 1, length)
    place = torch.arange(length, device=device)
    return ((member.transpose(1, 2) == member) & (place <= place[:, None])).unsqueeze(1)


def _near(seen: Tensor, window: int | None) -> Tensor:
    if window is None or window >= seen.shape[-1]:
        return seen
    place = torch.arange(seen.shape[-1], device=seen.device)
    return seen & (place > place[:, None] - window)


def _recorded(device: torch.device) -> bool:
    """The operations will be done again for other batches: where sequences begin must be read from the device, by masks."""
    return torch.compiler.is_compiling() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing())


def any_length(rows: Tensor) -> AbstractContextManager[Any]:
    """While it is entered, torch's attention takes kernels that do not mind which lengths they see.

    That is, not cuDNN's, which torch 2.11 prefers on Hopper: it makes a plan for each new length, and prompts and batches have
    ever new ones. Entering costs 50 us, so a model does it once and not in each layer.
    """
    return sdpa_kernel(_BACKENDS) if rows.is_cuda else nullcontext()


def fused_type(rows: Tensor, head_width: int) -> torch.dtype | None:
    """The type in which torch's variable-length attention can take packed sequences: half precision on a GPU, or None."""
    if not (rows.is_cuda and "window_size" in _VARLEN_KNOWS and head_width % 8 == 0 and head_width <= 256):
        return None
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else rows.dtype
    return dtype if dtype in _HALF else None


def _mask(length: int, past: int, window: int | None, left_padding: Tensor | None, device: torch.device) -> Tensor | None:
    keys = past + length
    reaches = window is None or keys <= window
    if reaches and left_padding is None and (past == 0 or length == 1):
        return None
    query = torch.arange(past, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)
    seen = key <= query
    if not reaches:
        assert window is not None
        seen = seen & (key > query - window)
    seen = seen[None, None]
    if left_padding is not None:
        # Padding sees itself: a row of nothing but False would make NaN, and NaN times a weight of zero is NaN.
        seen = (seen & (key >= left_padding.to(device)[:, None, None, None])) | (key == query)
    return seen


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [B, H, S, E], key and value [B, G, K, E] -> [B, S, H, E]; the signature is that of transformers' attentions."""
    view = kwargs.get(ARGUMENT)
    foreign = [name for name in _FOREIGN if kwargs.get(name) is not None]
    if view is None or foreign or attention_mask is not None or sliding_window not in view.masks:
        raise LlavaKitError(
            f"{type(module).__name__} needs more of its attention than `attention: segments` computes "
            f"({', '.join(foreign) or 'its own masks'}); write `attention: eager` in the recipe"
        )
    mask = view.masks[sliding_window]
    if view.packed is None:
        return _attend_rows(query, key, value, mask, dropout, scaling), None
    if view.fused is not None:
        # Autocast does not know this kernel, and rotary embedding has made float32 of queries and keys.
        query, key, value = (tensor.to(view.fused) for tensor in (query, key, value))
        return _attend_varlen(query, key, value, view.packed, sliding_window, scaling), None
    return _attend_segments(query, key, value, view.packed, mask, dropout, scaling), None


def _attend_rows(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scaling: float | None
) -> Tensor:
    """One sequence a row."""
    rows, heads, length, _ = query.shape
    groups = heads // key.shape[1]
    causal = mask is None and length > 1
    if groups > 1 and length == 1:
        # The heads that share a key head become positions: the cache is read as it lies, not repeated.
        query = query.unflatten(1, (key.shape[1], groups)).squeeze(3)
        groups = 1
    elif groups > 1 and mask is not None:
        # The fused kernels take grouped heads or a mask, not both.
        key, value, groups = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), 1
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scaling, enable_gqa=groups > 1
    )
    return output.reshape(rows, heads, length, -1).transpose(1, 2)


def _flat(tensor: Tensor) -> Tensor:
    """[B, heads, S, E] -> [B * S, heads, E]."""
    return tensor.transpose(1, 2).flatten(0, 1)


@torch.compiler.disable(recursive=True)  # compiled, it would be traced anew for every other set of lengths
def _attend_segments(
    query: Tensor, key: Tensor, value: Tensor, packed: Sequences, mask: Tensor | None, dropout: float, scaling: float | None
) -> Tensor:
    """Packed sequences, one after the other; split and cat, whose gradients are cat and split."""
    ends = packed.host_offsets
    lengths = [end - start for start, end in pairwise(ends)]
    outputs = []
    for parts in zip(*(_flat(tensor).split(lengths) for tensor in (query, key, value))):
        one_query, one_key, one_value = (part.transpose(0, 1).unsqueeze(0) for part in parts)
        length = one_query.shape[2]
        corner = None if mask is None else mask[:, :, :length, :length]
        outputs.append(_attend_rows(one_query, one_key, one_value, corner, dropout, scaling).squeeze(0))
    return torch.cat(outputs).unflatten(0, (query.shape[0], query.shape[2]))


def _attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, packed: Sequences, window: int | None, scaling: float | None
) -> Tensor:
    """Packed sequences in one kernel: flash attention over offsets, which may end in empty sequences (a block of threads whose
    queries begin behind the end of its sequence returns at once).

    Causal order alone is written as a window of the longest sequence. Flash attention takes that for no window at all, and
    torch from 2.15 on would otherwise prefer cuDNN: which builds a plan for each new number of sequences and longest sequence,
    makes NaN of empty ones before cuDNN 9.25, and in the backward pass took the head's width for the longest sequence
    (pytorch/pytorch#186142).
    """
    flat_query, flat_key, flat_value = (_flat(tensor).contiguous() for tensor in (query, key, value))
    grouped: dict[str, Any] = {}
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in _VARLEN_KNOWS:
            grouped["enable_gqa"] = True
        else:
            groups = query.shape[1] // key.shape[1]
            flat_key, flat_value = flat_key.repeat_interleave(groups, 1), flat_value.repeat_interleave(groups, 1)
    output = varlen_attn(
        flat_query,
        flat_key,
        flat_value,
        packed.offsets,
        packed.offsets,
        packed.longest,
        packed.longest,
        scale=scaling,
        window_size=(packed.longest if window is None else window - 1, 0),
        **grouped,
    )
    assert isinstance(output, Tensor)
    return output.unflatten(0, (query.shape[0], query.shape[2]))


AttentionInterface.register(NAME, attend)
