"""Asking by file."""

import json

import pytest

from llava_kit.core.teacher import TeacherAnswer, TeacherError
from llava_kit.datagen import batch
from llava_kit.datagen.ask import Asked
from llava_kit.datagen.batch import read_batch, write_batch
from llava_kit.datagen.run import Work, generate
from llava_kit.errors import DataError, LlavaKitError


def quiet(*_):
    return None


@pytest.fixture
def teacher(said):
    class ByFile(said):
        def batch_line(self, request):
            return {"custom_id": request.key, "body": request.messages[-1].content}

        def batch_answer(self, line):
            if line.get("error"):
                raise TeacherError("server", line["error"], transient=True)
            return TeacherAnswer(line["response"], "m", "stop", 10, 10)

    return ByFile()


def answered(path, good_answer, **more):
    """Result lines of a file of requests, in another order than they were asked."""

    class Request:
        type = "detail"

    lines = []
    for line in path.read_text().splitlines():
        Request.key = json.loads(line)["custom_id"]
        lines.append({"custom_id": Request.key, "response": good_answer(Request), "error": None, **more})
    return lines[::-1]


def write_all(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_by_file_is_the_same_as_asked(make_options, pictures, said, teacher, good_answer, tmp_path):
    direct = generate(make_options(types={"detail": 6}, to=str(tmp_path / "direct")), source=pictures(), teacher=said())
    options = make_options(types={"detail": 6})
    with Work(options, source=pictures(), teacher=teacher) as work:
        ((path, count),) = write_batch(work, tmp_path / "requests.jsonl", quiet)
    assert count == 6
    lines = answered(path, good_answer)
    with Work(options, source=pictures(), teacher=teacher) as work:
        found = read_batch(work, [write_all(tmp_path / "results.jsonl", lines)], quiet)
        result = work.result(Asked(asked=found.new))
    assert (found.new, found.missing, found.errors) == (6, 0, {})
    assert not teacher.asked

    def without_model(folder):
        return (folder / "data.jsonl").read_text().replace('"model": "m"', '"model": "said-1"')

    assert without_model(result.folder) == without_model(direct.folder)


def test_errors_missing_and_foreign_results(make_options, pictures, teacher, good_answer, tmp_path):
    options = make_options(types={"detail": 6})
    with Work(options, source=pictures(), teacher=teacher) as work:
        ((path, _),) = write_batch(work, tmp_path / "requests.jsonl", quiet)
    lines = answered(path, good_answer)
    lines[0] = {"custom_id": lines[0]["custom_id"], "response": None, "error": "expired"}
    lines[1]["custom_id"] = "somebody else's"
    del lines[2]
    results = write_all(tmp_path / "results.jsonl", [*lines, lines[-1]])
    results.write_text(results.read_text() + "{cut\n")
    with Work(options, source=pictures(), teacher=teacher) as work:
        found = read_batch(work, [results], quiet)
        assert (found.new, found.known, found.missing) == (3, 1, 3)
        assert found.errors == {"server": 1}
        assert found.foreign == ["somebody else's"]
        assert found.broken == [f"{results}:7: is no JSON object with a custom_id"]
        ((_, count),) = write_batch(work, tmp_path / "more.jsonl", quiet)
        assert count == 3


def test_large_batches_become_several_files(make_options, pictures, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "MAX_REQUESTS", 4)
    with Work(make_options(types={"detail": 6}), source=pictures(), teacher=teacher) as work:
        files = write_batch(work, tmp_path / "requests.jsonl", quiet)
        assert [(path.name, count) for path, count in files] == [("requests.jsonl", 4), ("requests-2.jsonl", 2)]
        monkeypatch.setattr(batch, "MAX_BYTES", 300)
        assert len(write_batch(work, tmp_path / "small.jsonl", quiet)) > 2
        with pytest.raises(DataError, match="is there already"):
            write_batch(work, tmp_path / "requests.jsonl", quiet)


def test_files_that_are_no_results(make_options, pictures, teacher, said, tmp_path):
    with Work(make_options(types={"detail": 6}), source=pictures(), teacher=teacher) as work:
        ((path, _),) = write_batch(work, tmp_path / "requests.jsonl", quiet)
        with pytest.raises(DataError, match="no such file"):
            read_batch(work, [tmp_path / "nowhere"], quiet)
        with pytest.raises(DataError, match=r"holds no result.*holds neither response nor error"):
            read_batch(work, [path], quiet)
    with (
        Work(make_options(to=str(tmp_path / "b")), source=pictures(), teacher=said()) as work,
        pytest.raises(LlavaKitError, match="takes no files of requests"),
    ):
        write_batch(work, tmp_path / "x.jsonl", quiet)
