from __future__ import annotations

import pytest

from llava_kit.errors import LlavaKitError
from llava_kit.view.gallery import Gallery
from llava_kit.view.search import KEPT, Query, Scan, Scans, read_number, read_query, text_of

from .conftest import HOSTILE, Rows


def found(gallery: Gallery, **fields) -> list[int]:
    scan = Scan(gallery, Query(**fields))
    assert scan.wait(30)
    return scan.numbers(0, gallery.count)


def test_text_is_looked_for_in_turns_ids_and_captions(gallery):
    assert found(gallery, text="plain-7") == [21, *range(84, 94)]
    assert found(gallery, text="QUESTION 7?") == [21]
    assert found(gallery, text="a caption") == [0, 1, 2, 3]
    assert found(gallery, text=HOSTILE) == [4]
    assert found(gallery, text="nowhere at all") == []


def test_filters(gallery):
    assert found(gallery, source="regions") == [0, 1, 2, 3]
    assert found(gallery, pictures="many") == [7]
    assert found(gallery, pictures="0") == [6, 10, 11]
    assert found(gallery, boxes=True) == [0, 1, 2, 3, 4, 12]
    assert found(gallery, problem=True) == [8, 10, 11, 12, 13]
    assert found(gallery, least=300) == [5]
    assert found(gallery, most=0) == [10, 11]
    assert found(gallery, source="regions", text="tall", boxes=True) == [1, 3]


def test_a_bad_row_is_found_by_its_name(gallery):
    assert found(gallery, text="bad") == [10]


def test_matches_are_found_while_the_scan_goes_on(rows):
    import threading

    go = threading.Event()

    class Slow(Rows):
        def __getitem__(self, index):
            if index == 5:
                assert go.wait(30)
            return super().__getitem__(index)

    scan = Scan(Gallery(Slow(rows)), Query(source="regions"))
    while scan.done < 5:
        pass
    assert scan.numbers(0, 10) == [0, 1, 2, 3]
    assert scan.numbers(1, 2) == [1, 2]
    assert not scan.finished
    go.set()
    assert scan.wait(30)


def test_only_the_last_scans_are_kept(gallery):
    scans = Scans(gallery)
    first = scans.of(Query(text="0"))
    assert scans.of(Query(text="0")) is first
    for number in range(1, KEPT + 1):
        scans.of(Query(text=str(number)))
    assert scans.of(Query(text="0")) is not first
    scans.stop()


def test_queries_of_a_request():
    assert read_query({}).is_empty
    assert read_query({"text": "x", "boxes": "1", "least": "3", "start": "9"}) == Query(text="x", boxes=True, least=3)
    with pytest.raises(LlavaKitError, match="did you mean 'many'"):
        read_query({"pictures": "manny"})


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "१", "1" * 13, "0x10", " 1"])
def test_what_is_no_number(text):
    with pytest.raises(LlavaKitError, match="expected a whole number"):
        read_number("start", text)


def test_all_text_of_a_sample(rows):
    assert text_of(rows[0]).startswith("wide-padded\n")
    assert text_of(rows[0]).endswith("A caption.")
