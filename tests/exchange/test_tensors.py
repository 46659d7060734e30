"""Tensors by name from files: lazily, one at a time; whatever is wrong with the files is one clear error and runs nothing."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from originals import write_weights
from safetensors.torch import save_file

from llava_kit import CheckpointError
from llava_kit.exchange.tensors import FileTensors, JoinedTensors, MemoryTensors, RenamedTensors, below, weight_files

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b.weight": torch.ones(4, dtype=torch.bfloat16)}


def save(folder, *, legacy=False, name="pytorch_model.bin", tensors=TENSORS):
    folder.mkdir(exist_ok=True)
    torch.save(tensors, folder / name, _use_new_zipfile_serialization=not legacy)
    return folder / name


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_read(tmp_path, kind):
    if kind == "safetensors":
        save_file(TENSORS, tmp_path / "model.safetensors")
    else:
        save(tmp_path, legacy=kind == "legacy")
    tensors = FileTensors(weight_files(tmp_path))
    assert tensors.shapes() == {"a.weight": (2, 3), "b.weight": (4,)}
    assert tensors.dtype("b.weight") == torch.bfloat16
    for name, value in TENSORS.items():
        assert torch.equal(tensors.read(name), value)
    assert "a.weight" in tensors
    assert "c" not in tensors


def test_what_is_read_is_a_copy(tmp_path):
    tensors = FileTensors([save(tmp_path)])
    tensors.read("a.weight").zero_()
    assert torch.equal(tensors.read("a.weight"), TENSORS["a.weight"])


def test_of_pickles_only_the_mapped_ones_stay_open(tmp_path):
    files = [save(tmp_path, legacy=True, name=f"{n}.bin", tensors={f"t{n}": torch.ones(2)}) for n in range(3)]
    tensors = FileTensors(files)
    for name in ("t0", "t2", "t1"):
        tensors.read(name)
    assert tensors._pickles._mapped == {}
    assert tensors._pickles._last[0] == files[1]
    mapped = FileTensors([save(tmp_path, name="m.bin")])
    assert list(mapped._pickles._mapped) == [tmp_path / "m.bin"]


def test_safetensors_go_before_pickles(tmp_path):
    save(tmp_path)
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]
    assert weight_files(tmp_path, "mm_projector") == []


@pytest.mark.parametrize("pickled", [False, True])
def test_shards(tmp_path, pickled):
    write_weights(tmp_path, TENSORS, pickled=pickled, shards=2)
    tensors = FileTensors(weight_files(tmp_path))
    assert all(torch.equal(tensors.read(name), value) for name, value in TENSORS.items())


def test_renamed_joined_below():
    first = MemoryTensors({"x.a": torch.zeros(1), "x.b": torch.ones(1), "y.c": torch.ones(2)}, "one")
    second = MemoryTensors({"x.b": torch.full((1,), 7.0)}, "two")
    joined = JoinedTensors([first, second])
    assert joined.read("x.b") == 7
    assert joined.where == "one with two"
    assert set(below(joined, "x.").shapes()) == {"a", "b"}
    assert RenamedTensors(joined, {"new": "y.c"}).shapes() == {"new": (2,)}
    assert joined.dtype("x.a") == torch.float32


class _Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["zip", "legacy", "plain"])
def test_code_in_a_pickle_is_not_run(tmp_path, how):
    harm, file = tmp_path / "harm", tmp_path / "pytorch_model.bin"
    content = {"a": _Harmful(harm)}
    if how == "plain":
        file.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: .*objects or code"):
        FileTensors([file])
    assert not harm.exists()


@pytest.mark.parametrize("how", ["zip", "legacy", "empty", "safetensors"])
def test_truncated_files(tmp_path, how):
    if how == "safetensors":
        file = tmp_path / "model.safetensors"
        save_file({"a": torch.ones(1000)}, file)
    else:
        file = save(tmp_path, legacy=how == "legacy", tensors={"a": torch.ones(1000)})
    file.write_bytes(b"" if how == "empty" else file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=file.name):
        FileTensors([file])


def test_what_is_no_dictionary_of_tensors(tmp_path):
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match="expected tensors by name"):
        FileTensors([tmp_path / "x.bin"])


def test_all_that_is_wrong_at_once(tmp_path):
    save_file({"a": torch.ones(2), "q": torch.ones(2, dtype=torch.int8)}, tmp_path / "x.safetensors")
    save_file({"a": torch.ones(2), "e": torch.ones(0), "x.position_ids": torch.arange(3)}, tmp_path / "y.safetensors")
    with pytest.raises(CheckpointError) as error:
        FileTensors([tmp_path / "x.safetensors", tmp_path / "y.safetensors"])
    message = str(error.value)
    assert "'a' is in x.safetensors and in y.safetensors" in message
    assert "'q' is of type I8" in message
    assert "did not gather" in message
    assert "position_ids" not in message


def test_an_index_that_does_not_fit(tmp_path):
    write_weights(tmp_path, TENSORS, shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names files that are not in that folder: 'model-00002-of-00002\.safetensors'"):
        weight_files(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    one = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps({"weight_map": {"a.weight": one, "gone": one}}))
    with pytest.raises(CheckpointError, match="'gone' is not in"):
        weight_files(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a.weight": "../x.safetensors"}}))
    with pytest.raises(CheckpointError, match="not in that folder"):
        weight_files(tmp_path)
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="expected a `weight_map`"):
        weight_files(tmp_path)
