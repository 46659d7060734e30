from __future__ import annotations

import json
import os
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_kit.core.json_object import section_names
from llava_kit.core.json_rows import JsonMembers, JsonRows, fingerprint, index_rows
from llava_kit.errors import DataError


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.dictionaries(st.text(max_size=4), st.text(alphabet='\\"[]{}a,\n🙂é', max_size=12), max_size=3), max_size=6
    ),
    block=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
    ascii_=st.booleans(),
)
def test_index_of_any_json(tmp_path_factory, rows, block, indent, ascii_):
    """Blocks that end anywhere, also within an escape or a letter of many bytes."""
    path = tmp_path_factory.mktemp("index") / "rows.json"
    data = json.dumps(rows, indent=indent, ensure_ascii=ascii_).encode()
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llava_kit.core.json_scan.BLOCK_BYTES", block)
        index = index_rows(str(path))
        lines = "".join(json.dumps(row, ensure_ascii=ascii_) + "\n" for row in rows)
        found = [
            json.loads(data[start : start + length]) for start, length in zip(index.starts.tolist(), index.lengths.tolist())
        ]
        assert found == rows
        if rows:
            path.write_bytes(lines.encode())
            assert len(index_rows(str(path))) == len(rows)


@settings(max_examples=100, deadline=None)
@given(
    sections=st.dictionaries(
        st.text(alphabet='ab"\\\\é', min_size=1, max_size=4),
        st.one_of(
            st.integers(),
            st.text(alphabet='"[]{}a\\\\', max_size=6),
            st.lists(st.dictionaries(st.text(max_size=2), st.lists(st.integers(), max_size=2), max_size=2), max_size=4),
            st.dictionaries(st.text(max_size=2), st.text(max_size=3), max_size=2),
        ),
        min_size=1,
        max_size=5,
    ),
    block=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
)
def test_sections_and_members_of_any_object(tmp_path_factory, sections, block, indent):
    path = tmp_path_factory.mktemp("object") / "rows.json"
    path.write_text(json.dumps(sections, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llava_kit.core.json_scan.BLOCK_BYTES", block)
        if all(isinstance(value, dict) for value in sections.values()):
            members = JsonMembers(str(path))
            assert (members.names, list(members)) == (list(sections), list(sections.values()))
        else:
            with pytest.raises(DataError, match="expected an object for each key"):
                JsonMembers(str(path))
        for name, value in sections.items():
            if isinstance(value, list):
                assert list(JsonRows(str(path), name)) == value
    with pytest.raises(DataError, match="has no list 'none of them'"):
        JsonRows(str(path), "none of them")


@pytest.mark.parametrize("rows", ["[1, {}]", "[{}, null]", '[{}, "x", {}]', "[1]"])
def test_what_is_no_object_in_a_section_is_not_lost_silently(tmp_path, rows):
    path = tmp_path / "rows.json"
    path.write_text(f'{{"info": {{}},\n"rows": {rows}, "more": []}}', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows.json:2: found .*a JSON array of objects"):
        JsonRows(str(path), "rows")
    assert len(JsonRows(str(path), "more")) == 0


def test_rows_travel_and_are_sliced(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('\ufeff[{"a": 1}, {"a": 2}, {"a": [}]', encoding="utf-8")
    with pytest.raises(DataError):
        JsonRows(str(path))
    path.write_text('\ufeff[{"a": 1}, {"a": 2}, {"a": 3,}]', encoding="utf-8")
    rows = pickle.loads(pickle.dumps(JsonRows(str(path))))
    assert rows[0:2] == [{"a": 1}, {"a": 2}]
    with pytest.raises(DataError, match="row 2 is no JSON"):
        rows[2]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b'{"info": {"x": 1}, "images": [{"id"', ["info", "images"]),
        (b'\xef\xbb\xbf {"a\\"b": 1, "c": "d: {"', ['a\\"b', "c"]),
        (b'[{"a": 1}]', []),
        (b"", []),
    ],
)
def test_keys_that_show_in_a_head(text, names):
    assert section_names(text) == names


def test_other_encodings_are_told(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes('[{"a": 1}]'.encode("utf-16"))
    with pytest.raises(DataError, match=r"not UTF-8 text.*iconv -f UTF-16"):
        index_rows(str(path))


def test_fingerprint_sees_a_change(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b"cat" * 1000)
    before = fingerprint(str(path))
    assert fingerprint(str(path)) == before
    path.write_bytes(b"dog" + b"cat" * 999)
    assert fingerprint(str(path)) != before
    path.write_bytes(bytes(64 << 16) + b"x")
    large = fingerprint(str(path))
    with open(path, "r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"y")
    assert fingerprint(str(path)) != large
