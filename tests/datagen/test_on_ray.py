"""The same rows from Ray as from here; and what its workers kept is not lost."""

import json
import shutil

import pytest

from llava_kit.datagen.on_ray import generate_on_ray
from llava_kit.datagen.run import Work, generate
from llava_kit.recipe.generate import Generate

KEYS = {
    "source": {"type": "shapes", "task": "captions", "size": 24, "annotations": True},
    "types": {"conversation": 0.5, "detail": 0.25, "reasoning": 0.25},
    "price": {"input": 1, "output": 1},
}


def options(folder):
    return Generate.model_validate({**KEYS, "to": str(folder)})


def test_what_workers_kept_is_taken_in(tmp_path):
    result = generate(options(tmp_path / "out"))
    lines = (result.folder / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (result.folder / "workers").mkdir()
    (result.folder / "workers/a.jsonl").write_bytes(b"".join(lines[:10]))
    (result.folder / "workers/b.jsonl").write_bytes(lines[0] + b"".join(lines[8:20]) + lines[20][:30])
    (result.folder / "answers.jsonl").write_bytes(b"".join(lines[:3]))
    with Work(options(tmp_path / "out")) as work:
        assert len(work.answers) == 19


@pytest.mark.slow
def test_ray_s_rows_are_ours(tmp_path):
    pytest.importorskip("ray.data")
    import ray

    here = generate(options(tmp_path / "here"))
    ray.init(num_cpus=2, logging_level="error", log_to_driver=False, include_dashboard=False)
    try:
        there = generate_on_ray(options(tmp_path / "there"), workers=2)
        assert there.exit_code == 0
        assert there.asked.asked == here.asked.asked == 24
        shutil.rmtree(there.folder / "images")
        again = generate_on_ray(options(tmp_path / "there"), workers=2)
    finally:
        ray.shutdown()
    assert again.asked.asked == 0
    assert not (there.folder / "workers").exists()
    for name in ("data.jsonl", "rejected.jsonl", "summary.json"):
        assert (there.folder / name).read_bytes() == (here.folder / name).read_bytes()
    assert json.loads((there.folder / "summary.json").read_text())["complete"]
