"""Head and cross-entropy in one operation, over supervised rows alone: logits exist piece by piece, then their gradient does.

M rows, V words, D width; T rows of the hidden states, of which M are supervised.

The products run in cuBLAS, through torch. Where the logits of all rows fit into the limit there are three of them, as in any
head: logits, gradient of the rows, gradient of the weight. Else rows are taken in chunks, and the weight's gradient is made
afterwards, a slice of words at a time, from logits that are computed again: a fourth product, but each gradient is one product
summed in float32 inside cuBLAS and rounded once. Summing it over the chunks instead needs float32 [V, D] beside it: 2 GiB at
V = 128,256 and D = 4,096, where all that the slices need is the limit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import (
    TRITON_NAMES,
    AheadCase,
    KernelInputError,
    blocks,
    index_strided,
    launch,
    require_device,
    require_floats,
    require_indices,
    require_rank,
    require_same,
)
from .gather_rows import gather_rows

LIMIT = 192 * 2**20
"""Bytes of logits at once. In bfloat16 the 2,949 supervised rows of a batch of 16,384 (row G3) fit in whole at 32,000 words,
with 180 MiB. At 128,256 words all that is held is then no more than what Liger holds: logits and a gradient of all rows,
128 MiB each.
"""

IGNORE = -100
"""The id of a row that counts nothing, as torch has it. Any other id that is no word counts nothing either."""

# Rows of logits begin at multiples of 128 bytes at least, whatever V is: cuBLAS is slow on others, and loads are 16 bytes.
_ALIGNED = 64
# Rows of a chunk and words of a slice are multiples of the tiles of a matrix product.
_TILE = 256
# 4,096 numbers of a row at once by 256 threads: 16 each, in two loads of 16 bytes in half precision.
_BLOCK, _WARPS = 4096, 8


def head_loss(
    hidden: Tensor,
    positions: Tensor,
    ids: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    softcap: float | None = None,
    limit: int = LIMIT,
) -> Tensor:
    """Summed cross-entropy of `hidden[positions] @ weight.T + bias` against `ids`, float32 []; differentiable.

    hidden [..., D] (flat: [T, D]), positions and ids int32/int64 [M], weight [V, D], bias [V]. `softcap`: logits are
    `softcap * tanh(logits / softcap)`. Under autocast the products run in its dtype, as those of `F.linear`; else hidden and
    weight have one dtype. `limit`: bytes of logits at once. A position or an id out of range adds nothing.

    Gradients are made in the forward pass, for what needs them alone, and scaled in place in the backward pass: there is one
    backward pass, and a second over the same graph is refused by torch. In float16 they are those of the sum, unscaled: use
    bfloat16 where they may be smaller than 6e-8. Raises `KernelInputError`.
    """
    require_device(hidden, positions, ids, weight, bias)
    hidden = hidden.flatten(0, -2)
    dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        weight = weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    _check(hidden, positions, ids, weight, bias, softcap, limit)
    if weight.dtype != dtype or (bias is not None and bias.dtype != dtype):
        found = f"{weight.dtype}" if bias is None else f"{weight.dtype} and {bias.dtype}"
        raise KernelInputError(f"the head is {found}, the hidden states are {dtype}; expected one dtype, or autocast")
    there = (positions >= 0) & (positions < hidden.shape[0])
    rows = gather_rows(hidden, positions, dtype=dtype)
    wanted = [torch.is_grad_enabled() and tensor is not None and tensor.requires_grad for tensor in (rows, weight, bias)]
    ids = torch.where(there, ids, IGNORE)
    return torch.ops.llava_kit.head_loss(rows, ids, weight, bias, softcap or 0.0, limit, *wanted)[0]


@torch.library.custom_op("llava_kit::head_loss", mutates_args=())
def _head_loss(
    rows: Tensor,
    ids: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    softcap: float,
    limit: int,
    need_rows: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """rows [M, D] -> the loss [], and its gradients by rows [M, D], weight [V, D] and bias [V]; [0] for those not needed."""
    require_device(rows, ids, weight, bias)
    _check(rows, ids, ids, weight, bias, softcap or None, limit)
    head = _Head(weight, bias, softcap)
    num_rows, num_words = rows.shape[0], weight.shape[0]
    losses = rows.new_empty(num_rows, dtype=torch.float32)
    norms = rows.new_empty(2, num_rows, dtype=torch.float32)
    grad_rows = torch.empty_like(rows) if need_rows else rows.new_empty(0)
    grad_weight = weight.new_empty(weight.shape if need_weight else 0)
    bias_total = rows.new_zeros(num_words if need_bias else 0, dtype=torch.float32)
    at_once = _at_once(num_words, rows.element_size(), limit, num_rows)
    whole = num_rows <= at_once
    grads = _Gradients(
        grad_rows if need_rows else None, grad_weight if need_weight and whole else None, bias_total if need_bias else None
    )
    ids = index_strided(ids)
    _by_rows(rows, ids, head, at_once, losses, norms, grads)
    if need_weight and not whole:
        _by_words(rows, ids, head, limit, norms, grad_weight)
    return losses.sum(), grad_rows, grad_weight, bias_total.to(weight.dtype)


@_head_loss.register_fake
def _(rows, ids, weight, bias, softcap, limit, need_rows, need_weight, need_bias):
    return (
        rows.new_empty((), dtype=torch.float32),
        torch.empty_like(rows) if need_rows else rows.new_empty(0),
        weight.new_empty(weight.shape) if need_weight else weight.new_empty(0),
        weight.new_empty(weight.shape[0] if need_bias else 0),
    )


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.needed = inputs[-3:]
    ctx.set_materialize_grads(False)


def _backward(ctx, upstream, *_):
    """`upstream` float32 []. It never leaves the device, and the gradients are scaled where they lie."""
    grads = [None, None, None]
    if upstream is not None:
        grads = [_scaled(grad, upstream) if needed else None for grad, needed in zip(ctx.saved_tensors, ctx.needed)]
    return grads[0], None, grads[1], grads[2], None, None, None, None, None


def _scaled(grad: Tensor, upstream: Tensor) -> Tensor:
    # With one dimension the product is computed in float32; a scalar would first be rounded to the gradient's own type.
    upstream = upstream.view(1)
    if type(grad) is Tensor:
        return grad.mul_(upstream)
    # While it is traced for a compiler, which decides about memory itself and takes no change of what the forward pass gave.
    return (grad * upstream).to(grad.dtype)


_head_loss.register_autograd(_backward, setup_context=_setup_context)


class _Head(NamedTuple):
    """weight [V, D], bias [V]; a softcap of 0 is none."""

    weight: Tensor
    bias: Tensor | None
    softcap: float

    def logits(self, rows: Tensor, words: slice, buffer: Tensor) -> Tensor:
        """Those of `words`, as a view of the beginning of `buffer`."""
        weight = self.weight[words]
        result = buffer[: rows.shape[0], : weight.shape[0]]
        if self.bias is None:
            return torch.mm(rows, weight.t(), out=result)
        return torch.addmm(self.bias[words], rows, weight.t(), out=result)


class _Gradients(NamedTuple):
    """What is to be filled: rows [M, D], weight [V, D], bias float32 [V], which holds zeros."""

    rows: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def _check(
    hidden: Tensor, positions: Tensor, ids: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None, limit: int
) -> None:
    require_floats(hidden=hidden, weight=weight, bias=bias)
    require_indices(positions=positions, ids=ids)
    require_same("the counts", positions=positions.shape[0], ids=ids.shape[0])
    require_rank("weight", weight, 2)
    require_same("the widths", hidden=hidden.shape[-1], weight=weight.shape[1])
    if bias is not None:
        require_rank("bias", bias, 1)
        require_same("the words", weight=weight.shape[0], bias=bias.shape[0])
    if softcap is not None and not softcap > 0:
        raise KernelInputError(f"`softcap` is {softcap}; expected a positive number, or None")
    if limit <= 0:
        raise KernelInputError(f"`limit` is {limit}; expected a positive number of bytes")


def _at_once(across: int, itemsize: int, limit: int, all_of_them: int) -> int:
    """How many rows of `across` logits (or words of so many rows) stay within `limit` bytes; at least one tile's."""
    possible = limit // max(1, _up(across, _ALIGNED) * itemsize)
    return max(1, all_of_them) if possible >= all_of_them else max(_TILE, possible // _TILE * _TILE)


def _up(number: int, step: int) -> int:
    return (number + step - 1) // step * step


def _buffer(rows: Tensor, num_rows: int, num_words: int) -> Tensor:
    """Memory for logits [num_rows, num_words rounded up]."""
    return rows.new_empty(num_rows, _up(num_words, _ALIGNED))


def _by_rows(rows: Tensor, ids: Tensor, head: _Head, at_once: int, losses: Tensor, norms: Tensor, grads: _Gradients) -> None:
    """Fills `losses` [M], `norms` [2, M] (the greatest logit, and the sum of exponents against it) and `grads`."""
    num_rows, num_words = rows.shape[0], head.weight.shape[0]
    if grads.weight is not None and num_rows == 0:
        grads.weight.zero_()
    buffer = _buffer(rows, min(at_once, num_rows), num_words)
    for start in range(0, num_rows, at_once):
        part = slice(start, min(start + at_once, num_rows))
        logits = head.logits(rows[part], slice(None), buffer)
        launch(
            softmax_kernel,
            (logits.shape[0],),
            *(logits, ids[part], losses[part], norms[:, part], norms.stride(0), logits.stride(0)),
            head.softcap or 1.0,
            num_words=num_words,
            CAPPED=head.softcap > 0,
            WRITE=any(grad is not None for grad in grads),
            BLOCK=_block(num_words),
            num_warps=_WARPS,
            on=logits,
        )
        if grads.rows is not None:
            torch.mm(logits, head.weight, out=grads.rows[part])
        if grads.weight is not None:  # then there is but one chunk
            torch.mm(logits.t(), rows, out=grads.weight)
        if grads.bias is not None:
            grads.bias.add_(logits.sum(0, dtype=torch.float32))


def _by_words(rows: Tensor, ids: Tensor, head: _Head, limit: int, norms: Tensor, grad_weight: Tensor) -> None:
    """Fills `grad_weight` [V, D], a slice of words at a time; logits are computed again."""
    num_rows, num_words = rows.shape[0], head.weight.shape[0]
    at_once = _at_once(num_rows, rows.element_size(), limit, num_words)
    buffer = _buffer(rows, num_rows, min(at_once, num_words))
    for start in range(0, num_words, at_once):
        words = slice(start, min(start + at_once, num_words))
        logits = head.logits(rows, words, buffer)
        block = _block(logits.shape[1])
        launch(
            slice_kernel,
            (num_rows, blocks(logits.shape[1], block)),
            *(logits, ids, norms, norms.stride(0), start, num_words, logits.stride(0)),
            head.softcap or 1.0,
            CAPPED=head.softcap > 0,
            BLOCK=block,
            num_warps=_WARPS,
            on=logits,
        )
        torch.mm(logits.t(), rows, out=grad_weight[words])


def _block(num_words: int) -> int:
    return min(_BLOCK, max(_ALIGNED, triton.next_power_of_2(num_words)))


@triton.jit
def _capped(logits, softcap, CAPPED: tl.constexpr):
    """softcap * tanh(logits / softcap); tanh(u) = 2 sigmoid(2u) - 1, as the interpreter has no tanh."""
    if CAPPED:
        logits = softcap * (2.0 * tl.sigmoid(2.0 * logits / softcap) - 1.0)
    return logits


@triton.jit
def _gradient(logits, hit, counts, top, total, softcap, CAPPED: tl.constexpr):
    """Of the row's loss by its (capped) logits' own logits: softmax less one at the target, times 1 - tanh²."""
    gradient = tl.exp(logits - top) / total - tl.where(hit, 1.0, 0.0)
    if CAPPED:
        tanh = logits / softcap
        gradient *= 1.0 - tanh * tanh
    return tl.where(counts, gradient, 0.0)


# Lists are read by number with scalar loads, so their alignment does not matter; chunks begin anywhere in them.
@triton.jit(do_not_specialize=["norm_stride"], do_not_specialize_on_alignment=["ids", "losses", "norms"])
def softmax_kernel(
    logits,
    ids,
    losses,
    norms,
    norm_stride,
    stride,
    softcap,
    num_words: tl.constexpr,  # one of a model; the interpreter of Triton 3.6 cannot count to others under a new NumPy
    CAPPED: tl.constexpr,
    WRITE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row: its loss and norm in one pass over the logits, their gradient in their place in a second."""
    row = tl.program_id(0)
    start = logits + row.to(tl.int64) * stride
    word = tl.load(ids + row)
    counts = (word >= 0) & (word < num_words)
    # Read before anything is written: the reductions below keep the threads together.
    aim = _capped(tl.load(start + tl.where(counts, word, 0)).to(tl.float32), softcap, CAPPED)
    columns = tl.arange(0, BLOCK)
    top = float("-inf")
    total = 0.0
    for first in range(0, num_words, BLOCK):
        places = first + columns
        # Rows are padded to `stride`, so whole vectors are read; what lies beyond the last word is left out afterwards.
        found = tl.load(start + places, mask=places < stride, other=0.0).to(tl.float32)
        found = tl.where(places < num_words, _capped(found, softcap, CAPPED), float("-inf"))
        higher = tl.maximum(top, tl.max(found, 0))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # words that a bias forbids may fill a whole block
        total = total * tl.exp(top - base) + tl.sum(tl.exp(found - base), 0)
        top = higher
    tl.store(losses + row, tl.where(counts, top - aim + tl.log(total), 0.0))
    tl.store(norms + row, top)
    tl.store(norms + norm_stride + row, total)
    if WRITE:
        for first in range(0, num_words, BLOCK):
            places = first + columns
            found = tl.load(start + places, mask=places < stride, other=0.0).to(tl.float32)
            found = _capped(found, softcap, CAPPED)
            gradient = _gradient(found, places == word, counts, top, total, softcap, CAPPED)
            tl.store(start + places, gradient.to(logits.dtype.element_ty), mask=places < stride)


@triton.jit(do_not_specialize=["first_word", "norm_stride"], do_not_specialize_on_alignment=["ids", "norms"])
def slice_kernel(
    logits,
    ids,
    norms,
    norm_stride,
    first_word,
    num_words,
    stride,
    softcap,
    CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of one row of the logits from word `first_word` on: their gradient in their place."""
    row = tl.program_id(0)
    start = logits + row.to(tl.int64) * stride
    word = tl.load(ids + row)
    counts = (word >= 0) & (word < num_words)
    top = tl.load(norms + row)
    total = tl.load(norms + norm_stride + row)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    found = tl.load(start + places, mask=places < stride, other=0.0).to(tl.float32)
    found = _capped(found, softcap, CAPPED)
    gradient = _gradient(found, places + first_word == word, counts, top, total, softcap, CAPPED)
    tl.store(start + places, gradient.to(logits.dtype.element_ty), mask=places < stride)


def ahead_of_time() -> list[AheadCase]:
    """Both kernels in each dtype, at a vocabulary of Llama's size and at small odd ones, capped and not."""
    cases = []
    for dtype, num_words, capped in (
        (torch.bfloat16, 128256, False),
        (torch.bfloat16, 256000, True),
        (torch.float16, 32003, False),
        (torch.float32, 341, True),
    ):
        name, size = TRITON_NAMES[dtype], "i32" if num_words % 16 else "i32:16"
        signature = {"logits": f"*{name}", "ids": "*i64", "losses": "*fp32", "norms": "*fp32", "norm_stride": "i32"}
        signature |= {"num_words": size, "stride": "i32:16", "softcap": "fp32", "first_word": "i32"}
        constants = {"CAPPED": capped, "BLOCK": _block(num_words)}
        title = f"{name}, {num_words} words{', capped' if capped else ''}"
        for write in (True,) if dtype != torch.bfloat16 or capped else (False, True):
            what = f"head_loss {'with' if write else 'without'} gradient: {title}"
            fixed = {**constants, "WRITE": write, "num_words": num_words}
            cases.append(AheadCase(what, softmax_kernel, signature, fixed, _WARPS, 3))
        cases.append(AheadCase(f"head_loss slice: {title}", slice_kernel, signature, constants, _WARPS, 3))
    return cases
