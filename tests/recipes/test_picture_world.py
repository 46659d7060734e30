"""The recipe that is all of LLaVA, in small: from rendering to an evaluated model, and again without making anything twice."""

import json

from llava_kit.cli.main import main

SMALL = [
    "prepare.render.convert.source.size=48",
    "prepare.render.convert.workers=1",
    "prepare.chosen.filter_captions.most=20",
    "prepare.chosen.filter_captions.workers=1",
    "prepare.looked_through.check.against=[]",
    *(
        f"stages.{stage}.{key}"
        for stage in ("align", "instruct")
        for key in ("steps=2", "global_batch_size=8", "validate=null")
    ),
    "evaluate.benchmark.size=12",
    "evaluate.wrong_picture=false",
]


def test_from_rendering_to_an_evaluated_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "picture_world", *SMALL]) == 0
    told = capsys.readouterr()
    assert "looked_through: " in told.err
    run = next((tmp_path / "runs" / "picture-world").glob("2*"))
    assert (run / "report.html").exists()
    assert "all" in json.loads((run / "evaluation.json").read_text())["accuracy"]
    mixed = json.loads((run / "instruct" / "stage.json").read_text())["mixture"]
    assert [share["name"] for share in mixed] == ["instruct", "captions"]
    lines = (tmp_path / "data/picture_world/instruct/data.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["tags"]["kind"] for row in rows} == {"conversation", "detail", "reasoning"}
    assert main(["train", "picture_world", *SMALL, "--resume", "never", "--stage", "align"]) == 0
    assert capsys.readouterr().err.count("done before") == 4
