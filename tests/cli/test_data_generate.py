"""`llava-kit data generate` as a user types it."""

import json

import pytest

from llava_kit.cli.main import main

SOURCE = "{type: shapes, task: captions, size: 8, annotations: true}"


def run(capsys, *words):
    code = main(["data", "generate", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_offline_by_default(capsys, tmp_path):
    code, out, err = run(
        capsys, "--source", SOURCE, tmp_path / "out", "--types", "conversation=4,detail=3,reasoning=2", "--seed", "3"
    )
    assert code == 0, err
    assert "data.jsonl: 9 rows" in out
    assert "of 9 wanted" in out
    rows = [json.loads(line) for line in (tmp_path / "out/data.jsonl").read_text().splitlines()]
    assert {row["tags"]["provenance"]["teacher"] for row in rows} == {"shapes-teacher-1"}
    assert {row["tags"]["source"] for row in rows} == {"shapes"}


def test_a_file_with_captions_and_the_options_of_its_source(capsys, tmp_path):
    assert run(capsys, "--source", SOURCE, tmp_path / "first", "--types", "detail=4")[0] == 0
    code, out, err = run(capsys, tmp_path / "first/data.jsonl", "stop=2", tmp_path / "second", "--types", "detail=1")
    assert code == 0, err
    assert "data.jsonl: 1 rows" in out


def test_a_recipe_with_a_step(capsys, tmp_path):
    recipe = tmp_path / "make.yaml"
    recipe.write_text(
        f"""
name: make
prepare:
  few: {{generate: {{source: {SOURCE}, types: {{detail: 2}}, to: {tmp_path}/few}}}}
  more: {{generate: {{source: {SOURCE}, types: {{detail: 1.0}}, to: {tmp_path}/more}}}}
"""
    )
    code, out, _ = run(capsys, recipe, "--step", "few", "prepare.few.generate.types={detail: 3}")
    assert code == 0
    assert "3 rows (detail 3)" in out
    code, _, err = run(capsys, recipe)
    assert code == 2
    assert "has 2 `generate` steps (few, more); say which with --step NAME" in err
    code, _, err = run(capsys, recipe, "--step", "fex")
    assert "did you mean 'few'?" in err
    code, _, err = run(capsys, "quickstart")
    assert code == 2
    assert "has no `generate` step" in err


def test_a_dry_run_leaves_nothing(capsys, tmp_path):
    code, out, _ = run(capsys, "--source", SOURCE, tmp_path / "out", "--types", "detail=5", "--dry-run", "--price", "0.5,2")
    assert code == 0
    assert "requests: 5 (detail 5); answered before: 0" in out
    assert "--- system\nYou see one picture." in out
    assert "cost, estimated: 0.0" in out
    assert "nothing was sent" in out
    assert not (tmp_path / "out").exists()


def test_by_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_KEY", "sk-secret-123456")
    words = ["--source", SOURCE, tmp_path / "out", "--types", "detail=4"]
    words += ["--teacher", "{type: openai, model: m, key_env: STUB_KEY}"]
    code, out, _ = run(capsys, *words, "--batch-write", tmp_path / "requests.jsonl")
    assert code == 0
    assert "requests.jsonl: 4 requests" in out
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert {line["url"] for line in lines} == {"/v1/chat/completions"}
    results = []
    for number, line in enumerate(lines[:3]):
        text = f"Thing {number} stands in the middle of the picture, and nothing else can be made out around it."
        body = {
            "model": "m-1",
            "choices": [{"message": {"content": text}}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 9},
        }
        results.append({"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": None})
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in results))
    code, out, err = run(capsys, *words, "--batch-read", tmp_path / "results.jsonl")
    assert code == 1
    assert "3 new answers, 0 known before" in out
    assert "3 rows (detail 3) of 4 wanted, 1 without an answer" in out
    assert "1 requests have no answer: write another batch" in err


def test_prompts_of_ones_own(capsys, tmp_path):
    code, out, _ = run(capsys, "--copy-prompts", tmp_path / "mine")
    assert code == 0
    assert "20 files" in out
    (tmp_path / "mine/detail/1.answer.txt").unlink()
    code, _, err = run(capsys, "--source", SOURCE, tmp_path / "out", "--prompts", tmp_path / "mine")
    assert code == 3
    assert "1.answer.txt: is missing; its other half is there" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected RECIPE"),
        (["only-one"], "expected SRC"),
        (["--source", SOURCE], "expected DST"),
        (["--source", "shapes", "out"], "expected a block"),
        (["--source", SOURCE, "out", "--types", "detial=3"], "there is no type 'detial'; did you mean 'detail'?"),
        (["--source", SOURCE, "out", "--types", "detail"], "expected conversation=100"),
        (["--source", SOURCE, "out", "--price", "3"], "expected two numbers"),
        (["--source", SOURCE, "out", "--max-cost", "3"], "max_cost needs `price"),
        (["--source", SOURCE, "out", "--set", "concurency=3"], "did you mean 'concurrency'?"),
        (["--source", SOURCE, "out", "--set", "concurrency=0", "--set", "tries=x"], "tries"),
        (["--source", SOURCE, "out", "--teacher", "shape"], "did you mean 'shapes'?"),
        (["--source", SOURCE, "out", "--dry-run", "--ray"], "found --dry-run and --ray; expected one of them"),
        (["--source", SOURCE, "out", "--batch-write", "x.jsonl"], "takes no files of requests"),
        (["--source", SOURCE, "out", "--prompts", "nowhere"], "nowhere is no folder"),
    ],
)
def test_what_is_wrong_is_said(capsys, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *words)
    assert code in (2, 3)
    assert said in err
    assert "Traceback" not in err
