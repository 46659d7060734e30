"""choices: cuBLAS unless a table for this device and these versions says otherwise; broken tables are one warning."""

from __future__ import annotations

import json
import os
import warnings

import pytest
import torch

from llava_kit_kernels.ops import choices, measurements
from llava_kit_kernels.ops.choices import BUCKETS, CUBLAS, Choice, Key, bucket, choose, describe, save
from llava_kit_kernels.ops.gemm import CANDIDATES

HERE = torch.device("cpu")  # choices ask a device for its name alone
TILE = Choice(CANDIDATES[1])
KEY = Key("linear_gelu", torch.bfloat16, 4096, 1024, 576)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "LLAVA_KIT_AUTOTUNE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LLAVA_KIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measurements, "SHIPPED", tmp_path / "tables")
    choices.forget()
    yield tmp_path
    choices.forget()


def ask(rows: int = 576, op: str = "linear_gelu", dtype: torch.dtype = torch.bfloat16, n: int = 4096, k: int = 1024) -> Choice:
    return choose(op, HERE, dtype, rows, n, k)


def saved(table=None) -> dict:
    path = save(HERE, table or {KEY: TILE})
    assert path is not None
    return json.loads(path.read_text())


def own_table():
    path = measurements.own_path(HERE, choices.KIND)
    assert path is not None
    return path


def test_cublas_where_nothing_was_measured():
    assert ask() == CUBLAS
    assert describe(HERE) == ["cpu: no table for this device: cuBLAS and the row kernels"]


@pytest.mark.parametrize(
    ("rows", "held"), [(0, 576), (1, 576), (576, 576), (577, 1152), (2881, 4608), (92160, 92160), (10**6, 92160)]
)
def test_rows_go_to_the_next_bucket(rows, held):
    assert bucket(rows) == held
    assert held in BUCKETS


def test_what_is_saved_is_chosen_for_its_key_alone():
    assert saved()["entries"] == [
        {"op": "linear_gelu", "dtype": "bfloat16", "n": 4096, "k": 1024, "rows": 576, "choice": [128, 128, 64, 8, 4]}
    ]
    assert ask() == ask(rows=1) == TILE
    others = [ask(rows=577), ask(op="linear_scatter"), ask(dtype=torch.float16), ask(n=5120), ask(k=1152)]
    assert others == [CUBLAS] * 5


def test_saving_adds_to_what_is_there():
    saved()
    saved({KEY._replace(rows=1152): CUBLAS, KEY._replace(rows=2304): TILE})
    assert ask() == ask(rows=2304) == TILE
    assert ask(rows=1152) == CUBLAS
    assert len(json.loads(own_table().read_text())["entries"]) == 3


def test_described():
    saved({KEY: TILE, KEY._replace(op="linear_dgelu"): CUBLAS})
    assert describe(HERE) == [
        "cpu: your table: 2 entries",
        "linear_dgelu bfloat16 up to 576 rows, weight 4096 x 1024: cublas",
        "linear_gelu bfloat16 up to 576 rows, weight 4096 x 1024: 128x128x64 w8 s4",
    ]
    if not torch.cuda.is_available():
        assert describe() == ["no CUDA device: nothing to choose"]


def test_told_not_to_ask_the_users_table(monkeypatch):
    saved()
    monkeypatch.setenv("LLAVA_KIT_AUTOTUNE", "0")
    choices.forget()
    assert ask() == CUBLAS


def test_a_shipped_table_is_asked_and_the_users_own_comes_first(cache, monkeypatch):
    shipped = saved({KEY: TILE, KEY._replace(rows=1152): TILE})
    own_table().unlink()
    (cache / "tables").mkdir()
    (cache / "tables" / "products-some.json").write_text(json.dumps(shipped))
    choices.forget()
    assert ask() == ask(rows=1152) == TILE
    saved({KEY: CUBLAS})
    assert ask() == CUBLAS
    assert ask(rows=1152) == TILE
    assert describe(HERE)[0] == "cpu: shipped table: 2 entries, your table: 1 entries"
    monkeypatch.setenv("LLAVA_KIT_AUTOTUNE", "0")
    choices.forget()
    assert ask() == TILE


@pytest.mark.parametrize("field", ["device", "torch", "triton"])
def test_a_table_of_another_device_or_version_is_not_looked_at(field):
    content = saved()
    own_table().write_text(json.dumps({**content, field: "other"}))
    choices.forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ask() == CUBLAS


BROKEN = {
    "no JSON": "{",
    "a list": "[1]",
    "no entries": json.dumps({"device": "cpu"}),
    "an unknown operation": {"op": "linear"},
    "an unknown dtype": {"dtype": "float64"},
    "an unknown bucket": {"rows": 500},
    "an unknown tile": {"choice": [100, 100, 64, 8, 3]},
    "a word for a tile": {"choice": "fast"},
    "no number": {"n": "many"},
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_table_is_one_warning(fault):
    content = saved()
    change = BROKEN[fault]
    if isinstance(change, dict):
        content["entries"][0].update(change)
        change = json.dumps(content)
    own_table().write_text(change)
    choices.forget()
    with pytest.warns(UserWarning, match=r"is no table of kernels \(.*delete it or tune again") as told:
        assert (ask(), ask(rows=5000)) == (CUBLAS, CUBLAS)
    assert len(told) == 1
    with pytest.warns(UserWarning, match="no table"):
        saved()  # tuning again mends it
    assert ask() == TILE


def test_written_whole_or_not_at_all(monkeypatch):
    before = saved()

    def fail(*paths):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.warns(UserWarning, match="could not be written to .*disk full"):
        assert save(HERE, {KEY: CUBLAS}) is None
    assert json.loads(own_table().read_text()) == before
    assert [path.name for path in own_table().parent.iterdir()] == [own_table().name]


def test_where_it_lies(tmp_path, monkeypatch):
    versions = [".".join(__import__(name).__version__.split(".")[:2]) for name in ("torch", "triton")]
    name = f"products-cpu-torch{versions[0]}-triton{versions[1]}.json"
    assert own_table() == tmp_path / "cache" / "kernels" / name
    monkeypatch.delenv("LLAVA_KIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert own_table() == tmp_path / "shared" / "llava_kit" / "kernels" / name
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert own_table() == tmp_path / "home" / ".cache" / "llava_kit" / "kernels" / name


def test_the_name_of_a_device_makes_a_file_name(monkeypatch):
    monkeypatch.setattr(measurements, "device_name", lambda device: "NVIDIA H100 80GB HBM3/MIG 1g")
    assert own_table().name.startswith("products-NVIDIA-H100-80GB-HBM3-MIG-1g-torch")


def test_shipped_tables_name_what_was_measured(monkeypatch):
    """Every table in the package can be read, and there is no warning."""
    monkeypatch.undo()
    for path in measurements.SHIPPED.glob("products-*.json"):
        content = json.loads(path.read_text())
        assert {"device", "torch", "triton", "entries"} <= set(content)
        assert dict(map(choices._entry, content["entries"]))
