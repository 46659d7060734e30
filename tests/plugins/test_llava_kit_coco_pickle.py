"""Plain data come out of a pickle as Python reads them; anything else in it is refused and never run."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_kit.errors import DataError, LlavaKitError, UnsafeError
from llava_kit_coco.expressions import read_expressions
from llava_kit_coco.plain_pickle import MAX_BYTES, read_plain_pickle

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.lists(inner, max_size=4).map(tuple)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pickles")

    def write(data: bytes) -> str:
        (folder / "refs(unc).p").write_bytes(data)
        return str(folder / "refs(unc).p")

    return write


@settings(max_examples=150, deadline=None)
@given(value=PLAIN, protocol=st.integers(0, 5))
def test_plain_data_as_python_reads_them(place, value, protocol):
    shared = [value, value, [value]]
    assert read_plain_pickle(place(pickle.dumps(shared, protocol=protocol))) == shared


def text2(text: str | bytes) -> bytes:
    """A text as Python 2 pickled it: bytes, or Unicode."""
    if isinstance(text, bytes):
        return b"U" + bytes([len(text)]) + text
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def dict2(items: dict) -> bytes:
    body = b"".join(text2(key) + value for key, value in items.items())
    return b"}(" + body + b"u"


def refs_of_python2() -> bytes:
    """A list of one ref by Python 2's cPickle, protocol 2: keys are bytes, sentences Unicode or bytes."""
    sentences = [
        dict2({b"raw": text2("Caf\u00e9 \U0001f642"), b"sent": text2("caf\u00e9"), b"sent_id": b"K\x01", b"tokens": b"]"}),
        dict2({b"raw": text2("caf\u00e9 2".encode()), b"sent": text2(b"cafe \xff"), b"sent_id": b"K\x02", b"tokens": b"]"}),
    ]
    ref = {b"ann_id": b"K\x05", b"image_id": b"\x8a\x02\x10\x27", b"split": text2(b"train")}
    return b"\x80\x02](" + dict2({**ref, b"sentences": b"](" + b"".join(sentences) + b"e"}) + b"e."


def test_a_pickle_of_python_2(place):
    path = place(refs_of_python2())
    expressions = read_expressions(path, "train", "sent")
    assert [expressions.text(0), expressions.text(1)] == ["caf\u00e9", "cafe \ufffd"]
    assert expressions.image_ids.tolist() == [10_000, 10_000]
    raw = read_expressions(path, "all", "raw")
    assert [raw.text(0), raw.text(1)] == ["Caf\u00e9 \U0001f642", "caf\u00e9 2"]


class Evil:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


def hostile(tmp_path) -> dict[str, bytes]:
    mark = str(tmp_path / "ran")
    calls = {
        "system": (os.system, (f"touch {mark}",)),
        "popen": (subprocess.check_output, (["touch", mark],)),
        "eval": (eval, ("1",)),
    }
    made = {
        f"{name} {protocol}": pickle.dumps([Evil(call)], protocol) for name, call in calls.items() for protocol in (0, 2, 4)
    }
    by_hand = f"(S'touch {mark}'\nios\nsystem\n.".encode()
    return {
        **made,
        "instance of protocol 0": by_hand,
        "extension": b"\x80\x02\x82\x01.",
        "from elsewhere": b"Pname\n.",
        "from elsewhere, by the stack": b"\x80\x02NQ.",
        "state": b"\x80\x02}}b.",
        "buffer": b"\x80\x05\x97.",
        "set": b"\x80\x04\x8f.",
        "bytearray of 1 EB": b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b".",
    }


def test_what_is_no_plain_data_is_refused_and_not_run(place, tmp_path):
    for name, data in hostile(tmp_path).items():
        with pytest.raises(UnsafeError, match="builds no plain data; nothing of it was run") as caught:
            read_plain_pickle(place(data))
        assert "write its list as JSON" in str(caught.value), name
    assert not (tmp_path / "ran").exists()


DAMAGED = {
    "empty": b"",
    "no end": b"\x80\x02]",
    "cut": pickle.dumps([{"a": list(range(300))}], 2)[:-7],
    "nothing on the stack": b"\x80\x02.",
    "no such memo": b"\x80\x02h\x05.",
    "items without a mark": b"\x80\x02]e.",
    "items for a text": b"\x80\x02U\x01a(K\x01e.",
    "a key without a value": b"\x80\x02}(K\x01u.",
    "a key that is a list": b"\x80\x02}(]K\x01u.",
    "a text of 1 EB": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"a.",
    "a text of -1": b"\x80\x02T\xff\xff\xff\xff.",
    "a number of 10,000 digits": b"L" + b"9" * 10_000 + b"L\n.",
    "a text that is a sum": b"S1+1\n.",
    "a text with half a quote": b"S'\n.",
    "a long sum of texts": b"S''" + b"+-" * 100_000 + b"1\n.",
    "no pickle": b"<html>Not found</html>",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_pickles_are_told(place, name):
    with pytest.raises(LlavaKitError, match=r"is no whole pickle: at byte|builds no plain data"):
        read_plain_pickle(place(DAMAGED[name]))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_raises_anything_else(place, data):
    whole = pickle.dumps([{"sentences": [{"sent": "a", "tokens": ["a"]}], "image_id": 70_000, "x": (1.5, None)}] * 2, 2)
    broken = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if broken:
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError, UnsafeError):
        read_plain_pickle(place(bytes(broken)))


def test_a_few_bytes_cannot_take_much_memory(place):
    """Python's reader in C makes room for four thousand million memos here."""
    assert read_plain_pickle(place(b"\x80\x02]r\xff\xff\xff\xff.")) == []
    nested = pickle.dumps(None, 2)[:-1] + b"\x85" * 200_000 + b"."
    assert isinstance(read_plain_pickle(place(nested)), tuple)
    with pytest.raises(DataError, match="key is neither text nor number"):
        read_plain_pickle(place(b"\x80\x02}N" + b"\x85" * 200_000 + b"K\x01s."))
    # Each list names the one before twice: 2 ** 40 entries in a hundred bytes.
    laughing = (
        b"\x80\x02]q\x00" + b"".join(b"](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(40)) + b"."
    )
    with pytest.raises(DataError, match="entry 0 is"):
        read_expressions(place(laughing), "train", "sent")


def test_many_times_one_list_is_refused(place, monkeypatch):
    monkeypatch.setattr("llava_kit_coco.expressions.MAX_EXPRESSIONS", 2_000)
    sentences = [{"sent": "a"}] * 100
    refs = [{"ann_id": 1, "image_id": 1, "split": "train", "sentences": sentences}] * 21
    with pytest.raises(UnsafeError, match="more than 2,000 expressions"):
        read_expressions(place(pickle.dumps(refs, 2)), "train", "sent")
    assert len(read_expressions(place(pickle.dumps(refs[1:], 2)), "train", "sent")) == 2_000


def test_a_large_file_is_not_read(place):
    path = place(b"")
    os.truncate(path, MAX_BYTES + 1)  # of zeros, and without taking room on the disk
    with pytest.raises(UnsafeError, match="is not read; give it as JSON"):
        read_plain_pickle(path)
    os.truncate(path, 0)
