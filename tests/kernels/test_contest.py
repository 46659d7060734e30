"""What `auto` takes is what was measured to win on this device, and was right."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from llava_kit.registry.manager import default_registry
from llava_kit_kernels import contest as module
from llava_kit_kernels.contest import Size, contest, described, loss_ways, measured, read, splicer_ways
from llava_kit_kernels.ops import measurements

HERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TINY = Size(samples=2, patches=6, text=5, vision_width=8, width=12, vocab=20)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAVA_KIT_CACHE", str(tmp_path))
    monkeypatch.setattr(measurements, "SHIPPED", tmp_path / "tables")
    return tmp_path


def says(ours: float, theirs: float):
    def timer(calls):
        assert calls.keys() == {"ours", "torch"}
        for call in calls.values():
            call()
        return {"ours": ours, "torch": theirs}

    return timer


@pytest.mark.parametrize("make", [splicer_ways, loss_ways])
def test_the_ways_agree(make):
    ways = make(HERE, torch.float32, TINY)
    exact = ways["exact"]()
    assert len(exact) > 2
    for name in ("ours", "torch"):
        for found, right in zip(ways[name](), exact, strict=True):
            torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-5)


def test_a_winner_is_taken_and_told():
    lines: list[str] = []
    assert measured("splicer", HERE) is None
    assert described("splicer", HERE)[0].startswith("not measured on this device")
    ratios = contest(HERE, TINY, torch.float32, lines.append, timer=says(10.0, 25.0))
    assert ratios == {"splicer": 2.5, "loss": 2.5}
    assert lines == [f"{part}: 10 us, torch 25 us: 2.50 times as fast" for part in ("splicer", "loss")]
    assert "2.50 times as fast as plain torch on" in str(measured("loss", HERE))
    assert described("loss", HERE) == [measured("loss", HERE)]


@pytest.mark.parametrize("theirs", [9.0, 10.1])
def test_who_hardly_wins_is_not(theirs):
    contest(HERE, TINY, torch.float32, timer=says(10.0, theirs))
    assert measured("splicer", HERE) is None
    assert "`auto` takes the reference" in described("splicer", HERE)[0]


def test_who_is_wrong_is_not_however_fast(monkeypatch):
    right = module.splicer_ways

    def wrong(*arguments):
        ways = right(*arguments)
        return {**ways, "ours": lambda: [tensor + 1 for tensor in ways["torch"]()]}

    monkeypatch.setattr(module, "splicer_ways", wrong)
    lines: list[str] = []
    assert contest(HERE, TINY, torch.float32, lines.append, timer=says(1.0, 25.0)) == {"splicer": 0.0, "loss": 25.0}
    assert "result 0 is off by" in lines[0]
    assert measured("splicer", HERE) is None


def test_a_shipped_measurement_counts_and_the_users_own_comes_first(cache):
    contest(HERE, TINY, torch.float32, timer=says(10.0, 30.0))
    own = measurements.own_path(HERE, module.KIND)
    assert own is not None
    (cache / "tables").mkdir()
    own.rename(cache / "tables" / "parts-some.json")
    assert read(HERE)["loss"]["ratio"] == 3.0
    contest(HERE, TINY, torch.float32, timer=says(10.0, 20.0))
    assert read(HERE)["loss"]["ratio"] == 2.0


def test_a_broken_file_is_a_warning_and_no_verdict():
    contest(HERE, TINY, torch.float32, timer=says(10.0, 30.0))
    own = measurements.own_path(HERE, module.KIND)
    assert own is not None
    for broken in ({"parts": {"splicer": {"ratio": "fast", "date": "now"}}}, {"parts": 3}):
        own.write_text(json.dumps({**json.loads(own.read_text()), **broken}))
        with pytest.warns(UserWarning, match="is no table of kernels"):
            assert measured("splicer", HERE) is None
    own.write_text(json.dumps({**json.loads(own.read_text()), "device": "another"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measured("splicer", HERE) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_nothing_is_faster_where_there_is_no_gpu():
    for kind in ("splicer", "loss"):
        assert default_registry().get(kind, "triton").why_faster() is None
    assert described("splicer") == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    lines: list[str] = []
    ratios = contest(report=lines.append)
    assert all(ratio > 0 for ratio in ratios.values()), lines
