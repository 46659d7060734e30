from __future__ import annotations

import os
import signal

import pytest

from llava_kit.errors import DataError
from llava_kit.store.journal import Journal, differences


def test_entries_survive_and_a_cut_line_goes(tmp_path):
    path = tmp_path / "deep" / "j"
    with Journal(path, {"a": 1}) as journal:
        journal.append({"n": 1})
        journal.append({"text": "é\ud800"})
    whole = path.read_bytes()
    for cut, kept in ((0, 3), (5, 2), (30, 1)):  # within the last entry, at a line's end, within the entry before
        path.write_bytes(whole[: len(whole) - cut])
        with Journal(path, {"a": 1}) as journal:
            journal.append({"n": 3})
            entries = list(journal.entries())
        assert entries[-1] == {"n": 3}
        assert entries[: len(entries) - 1] == [{"n": 1}, {"text": "é\ud800"}][: len(entries) - 1]
        assert len(entries) == kept
    path.write_bytes(whole[:10])  # not even the first line is whole
    with Journal(path, {"a": 2}) as journal:
        assert list(journal.entries()) == []


def test_journals_of_something_else(tmp_path):
    path = tmp_path / "j"
    Journal(path, {"a": 1, "b": [1]}).close()
    with pytest.raises(DataError, match=r"begun for something else \(a: then 1, now 2\)"):
        Journal(path, {"a": 2, "b": [1]})
    path.write_text("hello\n")
    with pytest.raises(DataError, match="is no journal"):
        Journal(path, {"a": 1})
    assert path.read_text() == "hello\n"


def test_one_writes_at_a_time(tmp_path):
    with Journal(tmp_path / "j", {}), pytest.raises(DataError, match="another program is writing"):
        Journal(tmp_path / "j", {})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_worker_does_not_hold_the_lock(tmp_path):
    receiver, sender = os.pipe()
    told, teller = os.pipe()
    journal = Journal(tmp_path / "j", {})
    child = os.fork()
    if not child:
        signal.alarm(20)
        os.write(teller, b".")
        os.read(receiver, 1)  # it lives on, as a worker whose parent was killed does
        os._exit(0)
    os.read(told, 1)
    journal._file.close()
    Journal(tmp_path / "j", {}).close()
    os.write(sender, b".")
    os.waitpid(child, 0)


def test_differences():
    assert differences({"a": 1, "b": 2}, {"a": 1, "c": 3}) == "b: then 2, now null; c: then null, now 3"
    assert differences({"a": 1}, {"a": 1}) == ""
    assert "... (302 letters)" in differences({"a": "x" * 300}, {"a": ""})
