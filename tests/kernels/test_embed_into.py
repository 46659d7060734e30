"""embed_into: text rows into the buffer and nothing else; the table's gradient by the plan's lists, in a fixed order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llava_kit.splice.inverse import TEXT_GROUP, invert
from llava_kit_kernels.ops.common import KernelInputError
from llava_kit_kernels.ops.embed_into import embed_gradient, embed_into

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def lists_of(ids: torch.Tensor, seats: torch.Tensor) -> dict[str, torch.Tensor]:
    """The lists of `embed_gradient`, made by the collator's own code."""
    none = np.zeros(0, np.int64)
    inverse = invert(none.astype(np.int32), ids.numpy(), seats.numpy(), none, (), 0)
    names = ("text_seats", "group_bounds", "token_bounds", "tokens")
    return {name: getattr(inverse, name) for name in names}


def some_text(num_text: int, num_seats: int, vocab: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids, half of them one and the same token, and distinct seats in order."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocab, (num_text,), generator=generator)
    ids[torch.rand(num_text, generator=generator) < 0.5] = vocab // 2
    return ids, torch.randperm(num_seats, generator=generator)[:num_text].sort().values


@pytest.mark.parametrize("written", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 41, 1100])
def test_rows_are_written_on_their_seats_and_no_others(home, poisoned, width, written):
    table = torch.randn(30, width, device=home).to(written)
    ids, seats = (t.to(home) for t in some_text(20, 50, 30))
    buffer = poisoned(50, width, written)
    embed_into(table, ids.int(), seats, buffer)
    assert torch.equal(buffer[seats], F.embedding(ids, table))
    assert buffer.isnan().all(1).sum() == 30


def test_conversion_on_the_way(home, poisoned):
    table = torch.randn(9, 64, device=home).bfloat16()
    buffer = poisoned(3, 64)
    embed_into(table, torch.tensor([8, 0, 5], device=home), torch.tensor([2, 0, 1], device=home), buffer)
    assert torch.equal(buffer, table[[0, 5, 8]].float())


def test_ids_and_seats_outside(home, poisoned):
    table = torch.randn(9, 41, device=home)
    ids = torch.tensor([3, -1, 9, 4, 5, 6], device=home)
    seats = torch.tensor([0, 1, 2, -1, 4, 2**33], device=home)
    buffer = poisoned(4, 41)
    embed_into(table, ids, seats, buffer)
    assert torch.equal(buffer[:3], torch.stack([table[3], torch.zeros_like(table[3]), torch.zeros_like(table[3])]))
    assert buffer[3].isnan().all()


def test_no_text(home, poisoned):
    none = torch.zeros(0, dtype=torch.int64, device=home)
    buffer = poisoned(3, 41)
    embed_into(torch.randn(9, 41, device=home), none, none, buffer)
    assert buffer.isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 341, 1100])
def test_newlines_and_blanks_in_the_same_launch(home, poisoned, width, dtype):
    table, newline = torch.randn(9, width, device=home).to(dtype), torch.randn(width, device=home).to(dtype)
    seats_of = {"text": [4, 6], "newline": [0, 19, 7, 20, -1], "blank": [1, 20, -3]}
    text, newlines, blanks = (torch.tensor(seats, device=home) for seats in seats_of.values())
    buffer = poisoned(20, width, dtype)
    embed_into(table, torch.tensor([8, 2], device=home), text, buffer, newline, newlines.int(), blanks)
    assert torch.equal(buffer[[4, 6]], table[[8, 2]])
    assert torch.equal(buffer[[0, 7, 19]], newline.expand(3, width))
    assert torch.equal(buffer[1], torch.zeros_like(newline))
    assert buffer.isnan().all(1).sum() == 14


def test_blanks_alone_and_lists_of_nothing(home, poisoned):
    none, table, buffer = torch.zeros(0, dtype=torch.int32, device=home), torch.ones(9, 41, device=home), poisoned(3, 41)
    embed_into(table, none, none, buffer, table[0], none, none)
    assert buffer.isnan().all()
    embed_into(table, none, none, buffer, None, None, torch.tensor([2], device=home))
    assert buffer.isnan().all(1).tolist() == [True, True, False]
    assert not buffer[2].any()


def test_a_newline_whose_elements_are_apart(home, poisoned):
    table, buffer = torch.randn(41, 5, device=home), poisoned(1, 41)
    none = torch.zeros(0, dtype=torch.int64, device=home)
    embed_into(table.T, none, none, buffer, table[:, 2], torch.tensor([0], device=home))
    assert torch.equal(buffer[0], table[:, 2])


def test_wrong_input_is_refused(home, poisoned):
    table, ids = torch.randn(9, 41, device=home), torch.tensor([1, 2], device=home)
    for arguments, message in [
        ((table, ids, ids[:1], poisoned(3, 41)), r"the lists do not agree: 2 in `ids`, 1 in `seats`"),
        ((table, ids, ids, poisoned(3, 40)), r"the widths do not agree: 41 in `table`, 40 in `buffer`"),
        ((table, ids.float(), ids, poisoned(3, 41)), r"`ids` is torch.float32"),
        ((table.double(), ids, ids, poisoned(3, 41)), r"`table` is torch.float64"),
        ((table, ids, ids, poisoned(3, 41)[0]), r"`buffer` has the shape \[41\]"),
        ((table, ids, ids, poisoned(3, 41), table[0, 1:], ids), r"40 in `newline`"),
        ((table, ids, ids, poisoned(3, 41), None, ids), r"found 2 newline seats and no newline row"),
        ((table, ids, ids, poisoned(3, 41), table[0], ids.float()), r"`newline_seats` is torch.float32"),
    ]:
        with pytest.raises(KernelInputError, match=message):
            embed_into(*arguments)


@pytest.mark.parametrize(("num_text", "vocab", "width"), [(0, 5, 41), (1, 1, 1), (60, 40, 341), (700, 30, 600)])
def test_gradient_is_that_of_embedding(home, num_text, vocab, width):
    ids, seats = some_text(num_text, 2 * num_text, vocab)
    gradient = torch.randn(2 * num_text, width)
    expected = torch.zeros(vocab, width, dtype=torch.float64).index_add_(0, ids, gradient[seats].double())
    weight = torch.zeros(vocab, width, dtype=torch.float64).index_add_(0, ids, gradient[seats].double().abs())
    lists = {name: t.to(home) for name, t in lists_of(ids, seats).items()}
    found = embed_gradient(gradient.to(home), **lists, vocab=vocab, dtype=torch.float32)
    # Two roundings for every addition, of the sum so far: a bound in the size of the terms, as some sums are nearly 0.
    assert ((found.cpu() - expected).abs() <= 4 * torch.finfo(torch.float32).eps * weight).all()
    again = embed_gradient(gradient.to(home), **lists, vocab=vocab, dtype=torch.float32)
    assert torch.equal(found, again)


def test_half_precision_is_summed_in_float32(home):
    ids, seats = some_text(600, 600, 10)
    gradient = torch.randn(600, 64).bfloat16()
    expected = torch.zeros(10, 64, dtype=torch.float64).index_add_(0, ids, gradient[seats].double())
    lists = {name: t.to(home) for name, t in lists_of(ids, seats).items()}
    assert lists["group_bounds"].shape[0] > lists["token_bounds"].shape[0]  # one token is summed in two passes
    found = embed_gradient(gradient.to(home), **lists, vocab=10, dtype=torch.bfloat16).cpu()
    ulp = torch.finfo(torch.bfloat16).eps * 2.0 ** expected.abs().log2().floor()
    assert ((found.double() - expected).abs() <= 2 * ulp).all()


def test_filling_and_seats_outside_add_nothing(home):
    gradient = torch.randn(6, 41, device=home)
    lists = [[0, 5, 9, -1, 2, 3, 4, 1, 1, 1], [-3, 2, 4, 5, 5, 10], [-2, 1, 3, 3, 9, 9], [7, 1, -1, 6, 8]]
    seats, groups, bounds, tokens = (torch.tensor(values, dtype=torch.int32, device=home) for values in lists)
    found = embed_gradient(gradient, seats[:7], groups, bounds, tokens, 8, torch.float32)  # a group and a token go too far
    expected = torch.zeros(8, 41, device=home)
    expected[7] = gradient[0] + gradient[5]
    expected[1] = gradient[2]
    expected[6] = gradient[3] + gradient[4]
    assert torch.equal(found, expected)


def test_groups_are_of_the_size_that_the_plan_makes():
    lists = lists_of(torch.zeros(600, dtype=torch.int64), torch.arange(600))
    assert lists["group_bounds"].tolist() == [0, TEXT_GROUP, 2 * TEXT_GROUP, 600]


def test_wrong_lists_are_refused(home):
    gradient = torch.randn(6, 41, device=home)
    lists = {name: t.to(home) for name, t in lists_of(torch.tensor([1, 2]), torch.tensor([0, 1])).items()}
    for change, message in [
        ({"tokens": lists["tokens"][:1]}, r"1 targets, 3 bounds of theirs"),
        ({"group_bounds": lists["group_bounds"][:0]}, r"0 of groups; expected one bound more"),
        ({"text_seats": lists["text_seats"].float()}, r"`seats` is torch.float32"),
        ({"grad": gradient[0]}, r"`grad` has the shape \[41\]"),
        ({"grad": gradient.double()}, r"`grad` is torch.float64"),
        ({"dtype": torch.float64}, r"`the result` is torch.float64"),
        ({"vocab": 2**31}, r"`the result` has 2,147,483,648 rows"),
    ]:
        with pytest.raises(KernelInputError, match=message):
            embed_gradient(**({"grad": gradient, **lists, "vocab": 9, "dtype": torch.float32} | change))


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_a_gpu_nothing_waits_and_runs_are_bit_equal(dtype):
    ids, seats = some_text(2400, 7000, 32064)
    lists = {name: t.to("cuda") for name, t in lists_of(ids, seats).items()}
    ids, seats = ids.to("cuda"), seats.to("cuda")
    table = torch.randn(32064, 4096, device="cuda", dtype=dtype)
    buffer, gradient = torch.zeros(7000, 4096, device="cuda", dtype=dtype), torch.randn(7000, 4096, device="cuda", dtype=dtype)

    def both():
        embed_into(table, ids, seats, buffer)
        return embed_gradient(gradient, **lists, vocab=32064, dtype=dtype)

    first = both()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = both()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, second)
    assert torch.equal(buffer[seats], table[ids])
    expected = torch.zeros(32064, 4096, device="cuda", dtype=torch.float64).index_add_(0, ids, gradient[seats].double())
    weight = torch.zeros(32064, 4096, device="cuda", dtype=torch.float64).index_add_(0, ids, gradient[seats].double().abs())
    assert ((first - expected).abs() <= torch.finfo(dtype).eps * expected.abs() + 1e-6 * weight).all()


@pytest.mark.gpu
@GPU
def test_a_graph_can_capture_both():
    ids, seats = some_text(300, 700, 1000)
    lists = {name: t.to("cuda") for name, t in lists_of(ids, seats).items()}
    ids, seats = ids.to("cuda"), seats.to("cuda")
    table, gradient = torch.randn(1000, 512, device="cuda"), torch.randn(700, 512, device="cuda")
    buffer = torch.zeros(700, 512, device="cuda")
    embed_into(table, ids, seats, buffer)
    expected = embed_gradient(gradient, **lists, vocab=1000, dtype=torch.float32)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        embed_into(table, ids, seats, buffer)
        found = embed_gradient(gradient, **lists, vocab=1000, dtype=torch.float32)
    buffer.zero_()
    graph.replay()
    assert torch.equal(buffer[seats], table[ids])
    assert torch.equal(found, expected)
