"""Making data through faults: an endpoint that fails in every way, a program that is killed, settings that are wrong."""

import multiprocessing
import os
import signal
import sys
import time

import openai  # noqa: F401 - the forked processes need not import it again
import pytest

from benchmarks.datagen import OUTPUTS, keys_in
from benchmarks.stub_endpoint import Stub
from llava_kit.cli.main import main
from llava_kit.datagen.run import generate
from llava_kit.recipe.generate import Generate

KEY = "sk-very-secret-0123456789"
PICTURES, CONCURRENCY = 100, 8


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("STUB_KEY", KEY)


def options(stub, folder, **more):
    keys = {
        "source": {"type": "shapes", "task": "captions", "size": PICTURES, "annotations": True},
        "teacher": {"type": "openai", "model": "stub", "base_url": stub.url, "key_env": "STUB_KEY"},
        "to": str(folder),
        "types": {"conversation": 0.5, "detail": 0.2, "reasoning": 0.3},
        "per_picture": 2,
        "concurrency": CONCURRENCY,
        "backoff": 0.01,
        "tries": 10,
    }
    return Generate.model_validate({**keys, **more})


def child(step):
    """A process of its own; forked, since what it needs is already imported here."""
    process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(generate(step).exit_code))
    process.start()
    return process


def test_killed_three_times_among_faults_nothing_is_lost_or_asked_twice(tmp_path):
    folder, wanted, killed = tmp_path / "killed", 2 * PICTURES, []
    with Stub(delay=0.004, key=KEY) as stub:
        for share in (0.25, 0.5, 0.75):
            process = child(options(stub, folder))
            while len(stub.served) < share * wanted and process.is_alive():
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            assert process.exitcode == -signal.SIGKILL
            time.sleep(stub.delay * 10)  # what the endpoint still holds of the dead process
            killed.append((keys_in(folder / "answers.jsonl"), len(stub.order)))
            assert len(killed[-1][0]) >= len(stub.served) - CONCURRENCY
            stub.generation += 1
        process = child(options(stub, folder))
        process.join()
        assert process.exitcode == 0
        for known, place in killed:
            assert not known & set(stub.order[place:]), "what was kept is not asked again"
        # Only what was on its way when the program was killed was answered twice.
        assert sum(count > 1 for count in stub.served.values()) <= len(killed) * CONCURRENCY
        assert len(stub.served) == wanted
        assert max(stub.most.values()) <= CONCURRENCY
        assert set(stub.met) == {"429", "500", "cut", "cut_body", "wrong_json", "no_choices"}
    with Stub(delay=0, faults={}) as calm:
        assert generate(options(calm, tmp_path / "calm", concurrency=3)).exit_code == 0
    rough, undisturbed = ([(tmp_path / name / output).read_bytes() for output in OUTPUTS] for name in ("killed", "calm"))
    assert rough == undisturbed
    rows, rejected = (text.count(b"\n") for text in rough)
    assert rows + rejected == wanted
    for reason in ("empty", "duplicate", "wrong_form", "mentions_source"):
        assert f'"reason": "{reason}"'.encode() in rough[1]
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


def run(capsys, *words, trace=False):
    code = main([*(["--traceback"] if trace else []), "data", "generate", *map(str, words)])
    said = capsys.readouterr()
    assert KEY not in said.out + said.err
    return code, said.out + said.err


SOURCE = ("--source", "{type: shapes, task: captions, size: 4, annotations: true}")


def teacher(url, **more):
    keys = {"type": "openai", "model": "m", "base_url": f"'{url}'", "key_env": "STUB_KEY", **more}
    return "--teacher", "{" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}"


@pytest.mark.parametrize("trace", [False, True])
def test_no_key(capsys, tmp_path, monkeypatch, trace):
    monkeypatch.delenv("STUB_KEY")
    code, said = run(capsys, *SOURCE, tmp_path / "out", *teacher("https://api.openai.com/v1"), trace=trace)
    assert code == 2
    assert "the environment variable STUB_KEY is not set" in said
    assert not (tmp_path / "out").exists()


def test_a_dry_run_needs_no_key(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("STUB_KEY")
    code, said = run(capsys, *SOURCE, tmp_path / "out", *teacher("https://api.openai.com/v1"), "--dry-run")
    assert code == 0
    assert "nothing was sent" in said


@pytest.mark.parametrize("trace", [False, True])
def test_a_key_that_is_wrong_and_comes_back_in_the_answer(capsys, tmp_path, trace):
    with Stub(delay=0, key="another") as stub:
        code, said = run(capsys, *SOURCE, tmp_path / "out", *teacher(stub.url), trace=trace)
    assert code == 2
    assert "the key in STUB_KEY is not accepted" in said


def test_a_key_in_the_recipe(capsys, tmp_path):
    for wrong in ({"api_key": KEY}, {"key_env": KEY}):
        code, said = run(capsys, *SOURCE, tmp_path / "out", *teacher("https://api.openai.com/v1", **wrong))
        assert code == 2
        assert "key" in said


def test_nobody_listens(capsys, tmp_path):
    code, said = run(
        capsys, *SOURCE, tmp_path / "out", *teacher("http://127.0.0.1:9/v1"), "--set", "tries=2", "--set", "backoff=0.01"
    )
    assert code == 1
    assert "no answer to 2 tries: no connection with http://127.0.0.1:9/v1" in said
    assert "nothing was answered; the same command begins again" in said
    assert "Traceback" not in said


def test_a_model_that_does_not_exist(capsys, tmp_path):
    with Stub(delay=0, status=404) as stub:
        code, said = run(capsys, *SOURCE, tmp_path / "out", *teacher(stub.url))
    assert code == 2
    assert "is the model 'm' there" in said


def test_an_address_that_is_none(capsys, tmp_path):
    code, said = run(capsys, *SOURCE, tmp_path / "out", *teacher("api.openai.com"))
    assert code == 2
    assert "base_url: is no address; expected one such as https://api.openai.com/v1" in said


def test_the_client_is_not_installed(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("llava_kit_openai.teacher.find_spec", lambda _: None)
    code, said = run(capsys, *SOURCE, tmp_path / "out", *teacher("https://api.openai.com/v1"))
    assert code == 2
    assert "pip install 'llava-kit[generate]'" in said


def test_ray_is_not_installed(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, said = run(capsys, *SOURCE, tmp_path / "out", "--ray")
    assert code == 2
    assert "pip install 'llava-kit[ray]'" in said


def test_captions_that_the_teacher_cannot_read(capsys, tmp_path):
    rows = tmp_path / "rows.jsonl"
    with open(rows, "w") as file:
        for number in range(12):
            file.write(
                f'{{"id": "{number}", "image": "a.png", "captions": ["A dog {number}."], "conversations": '
                '[{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt", "value": "A dog."}]}\n'
            )
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    code, said = run(capsys, rows, tmp_path / "out", "--types", "detail=12")
    assert code == 1
    assert "10 requests in a row were given up" in said
    assert "A dog" in said


def test_samples_without_captions(capsys, tmp_path):
    code, said = run(capsys, "--source", "{type: shapes, task: captions, size: 4}", tmp_path / "out")
    assert code == 3
    assert "none of 4 samples can be asked about: 4 no_captions" in said
