from __future__ import annotations

from llava_kit.view.gallery import Gallery
from llava_kit.view.spreads import Spreads

from .conftest import HOSTILE, Rows


def test_all_rows_are_counted(gallery):
    spreads = Spreads(gallery)
    spreads.run()
    told = spreads.told()
    assert (told["done"], told["rows"], told["of"], told["unreadable"]) == (120, 120, 120, 2)
    assert told["finished"]
    counted = dict(map(tuple, told["sources"]))
    assert counted == {"a": 53, "b": 53, "unnamed": 7, "regions": 4, HOSTILE: 1}
    assert [chart["title"] for chart in told["charts"]][-2:] == ["Positions", "Learnt tokens"]
    assert all(chart["svg"].startswith("<svg") for chart in told["charts"])
    assert not any("<img" in chart["svg"] for chart in told["charts"])


def test_a_sample_of_many_rows(rows):
    spreads = Spreads(Gallery(Rows(rows)), rows=50)
    assert list(spreads.numbers) == list(range(0, 120, 3))
    spreads.run()
    assert spreads.told()["done"] == 40
    assert len(spreads.told()["charts"]) == 7


def test_counting_can_be_begun_twice_and_stopped(gallery):
    spreads = Spreads(gallery)
    assert spreads.told()["done"] == 0
    spreads.start()
    thread = spreads._thread
    spreads.start()
    assert spreads._thread is thread
    spreads.stop()
    assert thread is not None
    assert not thread.is_alive()
