"""Shards: every tensor once, none larger than asked where that is possible, one of them in memory at a time."""

import json

import pytest
import torch
from safetensors.torch import load_file

from llava_kit import LlavaKitError
from llava_kit.export.shards import Piece, piece, read_size, told_size, write_shards


def test_one_file_needs_no_index(tmp_path):
    seen = []
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    pieces = [piece(name, tensor, torch.bfloat16) for name, tensor in tensors.items()]
    assert write_shards(tmp_path, pieces, max_bytes=10**6, progress=lambda *now: seen.append(now)) == 34
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert load_file(tmp_path / "model.safetensors")["a"].dtype == torch.bfloat16
    assert seen == [(34, 34)]


def test_shards_hold_everything_and_only_one_is_in_memory(tmp_path):
    alive, most = 0, 0

    class Tracked:
        def __init__(self, number):
            self.number = number

        def __call__(self):
            nonlocal alive, most
            tensor = torch.full((10, 10), float(self.number))
            alive += 1
            most = max(most, alive)
            import weakref

            weakref.finalize(tensor.untyped_storage(), free)
            return tensor

    def free():
        nonlocal alive
        alive -= 1

    pieces = [Piece(f"t{number}", (10, 10), torch.float32, Tracked(number)) for number in range(9)]
    write_shards(tmp_path, pieces, max_bytes=900)  # two of 400 bytes each
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 900, "total_size": 3600}
    assert sorted(set(index["weight_map"].values())) == [f"model-0000{n}-of-00005.safetensors" for n in range(1, 6)]
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], torch.full((10, 10), float(name[1:])))
    assert most <= 4  # one shard, and the one before it until Python has let go


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path):
    pieces = [piece(name, torch.zeros(size), torch.float32) for name, size in (("a", 1), ("b", 100), ("c", 1))]
    write_shards(tmp_path, pieces, max_bytes=8)
    weight_map = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(weight_map.values())) == 3


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 GiB", 3 * 2**29), ("700", 700), (12, 12), ("2mb", 2 * 10**6)]
)
def test_sizes(text, size):
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "five", "5XB", "-3GB", "0"])
def test_wrong_sizes_are_told(text):
    with pytest.raises(LlavaKitError, match=r"max_shard_size: found .*expected a size such as 5GB"):
        read_size(text)


def test_sizes_for_people():
    assert [told_size(n) for n in (5, 1500, 2 * 10**6, 13.5e9)] == ["5 bytes", "1.5 kB", "2.0 MB", "13.5 GB"]
