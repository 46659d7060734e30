from __future__ import annotations

import json
from collections import Counter

import pytest

from llava_kit.cli.main import main
from llava_kit.testing.tokenizers import CHATML, byte_level_tokenizer, sentencepiece_tokenizer

ROWS = [
    {
        "id": "one",
        "image": "nowhere.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "A cat."},
            {"from": "human", "value": "Which colour is it?"},
            {"from": "gpt", "value": "It is blue."},
        ],
    },
    {"id": "two", "conversations": [{"from": "human", "value": "Say <image> and </s>."}, {"from": "gpt", "value": "Yes."}]},
    {"id": "three", "image": "a.jpg", "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A."}]},
    {"id": "four", "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": ""}]},
    {"id": "five", "conversations": [{"from": "human", "value": "Why? " * 200}, {"from": "gpt", "value": "So."}]},
]


@pytest.fixture
def folder(tmp_path):
    sentencepiece_tokenizer(specials=CHATML).save_pretrained(tmp_path / "legacy")
    byte_level_tokenizer().save_pretrained(tmp_path / "bytes")
    (tmp_path / "data.json").write_text(json.dumps(ROWS))
    return tmp_path


def inspect(folder, capsys, *extra: str, template: str = "v1", tokenizer: str = "legacy"):
    words = ["--template", template, "--tokenizer", str(folder / tokenizer), "--data", str(folder / "data.json"), *extra]
    code = main(["inspect", "tokens", *words])
    return code, capsys.readouterr()


def looked_at(folder, capsys, *extra: str, **parts) -> list[dict]:
    code, output = inspect(folder, capsys, "--json", *extra, **parts)
    assert code == 0, output.err
    return json.loads(output.out)


def test_one_entry_for_each_row(folder, capsys):
    entries = looked_at(folder, capsys, "--max-length", "200")
    assert [entry["id"] for entry in entries] == ["one", "two", "three", "four", "five"]
    assert [entry["status"] for entry in entries] == ["ok", "ok", "image_count", "empty_answer", "too_long"]
    assert all(set(entry) == {"id", "prompt", "input_ids", "labels", "stop", "status"} for entry in entries)
    assert all(entry["stop"] == ["</s>"] for entry in entries)
    assert all(len(entry["input_ids"]) == len(entry["labels"]) for entry in entries)
    assert all((entry["input_ids"] == []) == (entry["status"] != "ok") for entry in entries)


def test_ids_and_labels(folder, capsys):
    first = looked_at(folder, capsys, "--index", "0")[0]
    assert first["prompt"].endswith(
        " USER: <image>\nWhat is it? ASSISTANT: A cat.</s>USER: Which colour is it? ASSISTANT: It is blue.</s>"
    )
    tokenizer = sentencepiece_tokenizer(specials=CHATML)
    assert first["input_ids"].count(-200) == 1
    assert first["labels"][first["input_ids"].index(-200)] == -100
    learnt = [label for label in first["labels"] if label != -100]
    assert tokenizer.convert_ids_to_tokens(learnt) == ["▁A", "▁cat", ".", "</s>", "▁It", "▁is", "▁blue.", "</s>"]
    assert all(label in (-100, token) for label, token in zip(first["labels"], first["input_ids"]))
    assert first["input_ids"][0] == tokenizer.bos_token_id


def test_typed_markers_stay_text(folder, capsys):
    two = looked_at(folder, capsys, "--index", "1")[0]
    tokenizer = sentencepiece_tokenizer(specials=CHATML)
    assert -200 not in two["input_ids"]
    assert two["input_ids"].count(tokenizer.eos_token_id) == 1
    assert "Say <image> and </s>." in two["prompt"]


def test_too_long_leaves_out_turns(folder, capsys):
    whole = looked_at(folder, capsys, "--index", "0")[0]
    limit = len(whole["input_ids"]) - 1
    short = looked_at(folder, capsys, "--index", "0", "--max-length", str(limit))[0]
    assert short["status"] == "ok"
    assert short["prompt"].endswith("A cat.</s>")
    assert short["input_ids"] == whole["input_ids"][: len(short["input_ids"])]
    (dropped,) = looked_at(folder, capsys, "--index", "0", "--max-length", str(limit), "--too-long", "drop_sample")
    assert dropped["status"] == "too_long"


def test_another_template_and_tokenizer(folder, capsys):
    first = looked_at(folder, capsys, "--index", "0", template="qwen_1_5", tokenizer="bytes")[0]
    tokenizer = byte_level_tokenizer()
    learnt = [label for label in first["labels"] if label != -100]
    assert tokenizer.decode(learnt) == "A cat.<|im_end|>It is blue.<|im_end|>"
    assert first["stop"] == ["<|im_end|>"]


def test_options_of_the_template(folder, capsys):
    tokenizer = sentencepiece_tokenizer(specials=CHATML)

    def learnt(*words: str, template: str) -> str:
        (entry,) = looked_at(folder, capsys, "--index", "0", *words, template=template)
        labels = [label for label in entry["labels"] if label != -100]
        return tokenizer.decode(labels, skip_special_tokens=False)

    assert learnt(template="v0").count("###") == 2
    wide = learnt("--option", "mask=original", template="v0")
    assert wide.count("###") == 5
    assert "### Assistant: A cat." in wide
    (chunks,) = looked_at(folder, capsys, "--index", "0")
    (whole,) = looked_at(folder, capsys, "--index", "0", "--option", "tokenisation=whole")
    assert whole["prompt"] == chunks["prompt"]
    (tagged,) = looked_at(folder, capsys, "--index", "0", "--option", "wrap_pictures=true", template="v1_mmtag")
    assert "<Image><image></Image>" in tagged["prompt"]


def test_the_tokenizers_own_template(folder, capsys):
    text = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    text += "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    words = ["--index", "0", "--option", f"template={text}"]
    (entry,) = looked_at(folder, capsys, *words, template="tokenizer_chat")
    assert entry["prompt"].startswith("<|im_start|>user\n<image>\nWhat is it?<|im_end|>\n<|im_start|>assistant\nA cat.")
    assert entry["stop"] == ["<|im_end|>", "</s>"]
    code, output = inspect(folder, capsys, *words, template="tokenizer_chat")
    assert code == 0
    assert output.out.count("<|im_end|>⟧") == 2


def test_for_people(folder, capsys):
    code, output = inspect(folder, capsys, "--index", "0", "1", "3")
    assert code == 0
    assert "⟦·A|·cat|.|</s>⟧" in output.out
    assert "[picture 1]" in output.out
    assert "empty_answer: turn 1" in output.out
    assert Counter(output.out)["⟦"] == Counter(output.out)["⟧"] > 2


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        ([], "missing: --template --tokenizer --data", 2),
        (["--template", "v1", "--data", "x.json"], "missing: --tokenizer", 2),
        (["recipe.yaml", "--template", "v1"], "found a recipe and --template", 2),
        (["--template", "v1", "--tokenizer", "nowhere", "--data", "{data}"], "there is no such folder", 2),
        (["--template", "v2", "--tokenizer", "{legacy}", "--data", "{data}"], "v2", 2),
        (["--template", "v1", "--tokenizer", "{legacy}", "--data", "nowhere.json"], "No such file", 3),
        (["--template", "v1", "--tokenizer", "{legacy}", "--data", "{data}", "--index", "9"], "samples 0 to 4", 3),
        (["--template", "v1", "--tokenizer", "{empty}", "--data", "{data}"], "cannot be read", 2),
        (["--template", "v1", "--tokenizer", "{legacy}", "--data", "{data}", "--option", "mask"], "expected KEY=VALUE", 2),
        (["--template", "v1", "--tokenizer", "{legacy}", "--data", "{data}", "--option", "mask=original"], "unknown key", 2),
        (["--template", "tokenizer_chat", "--tokenizer", "{legacy}", "--data", "{data}"], "has no chat template", 2),
    ],
)
def test_mistakes(folder, capsys, words, told, code):
    (folder / "empty").mkdir()
    filled = [word.format(data=folder / "data.json", legacy=folder / "legacy", empty=folder / "empty") for word in words]
    assert main(["inspect", "tokens", *filled]) == code
    assert told in capsys.readouterr().err


RECIPE = """
name: toy
model:
  encoder: {type: shapes_vit, image_size: 64}
  connector: {type: mlp}
  language_model: {type: shapes_lm}
  template: {type: vicuna_v1}
  tiling: {mode: anyres, pinpoints: [[64, 128], [128, 64], [128, 128]]}
stages:
  align:
    train: {connector: {lr: 1e-3}}
    data: {source: {type: shapes, task: captions, size: 40}, template: {type: plain}}
    steps: 3
    global_batch_size: 8
    clip_norm: 1.0
  instruct:
    train: {connector: {lr: 1e-3}}
    data: {source: {type: shapes, task: instruct, size: 40}, max_length: 512, pack: true}
    epochs: 1
    global_batch_size: 8
    micro_batch_size: 2
    clip_norm: 1.0
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(RECIPE)
    return str(path)


def test_tokens_of_a_recipe(recipe, capsys):
    assert main(["inspect", "tokens", recipe, "--stage", "instruct", "--index", "0", "2"]) == 0
    output = capsys.readouterr().out
    assert "rows of" in output
    assert "tiles]" in output
    assert "ASSISTANT" in output
    assert main(["inspect", "tokens", recipe, "stages.align.data.source.size=2", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert len(entries) == 2
    assert entries[0]["prompt"].startswith("<image>")
    assert main(["inspect", "tokens", recipe, "--stage", "instrct"]) == 2
    assert "did you mean 'instruct'" in capsys.readouterr().err


def test_pictures_of_a_recipe(recipe, capsys):
    words = ["inspect", "tokens", recipe, "stages.instruct.data.pictures=random", "--stage", "instruct", "--json"]
    assert main([*words, "--index", *map(str, range(20))]) == 0
    tossed = [entry["prompt"] for entry in json.loads(capsys.readouterr().out)]
    assert any("<image> ASSISTANT:" in prompt for prompt in tossed)
    assert any("USER: <image>\n" in prompt for prompt in tossed)
    assert main(["inspect", "tokens", recipe, "stages.instruct.data.pictures=randm"]) == 2
    assert "'random'" in capsys.readouterr().err


def test_batches_of_a_recipe(recipe, capsys):
    assert main(["inspect", "batch", recipe, "--stage", "instruct", "--step", "1", "--json"]) == 0
    step = json.loads(capsys.readouterr().out)
    assert step["step"] == 1
    samples = [name for batch in step["batches"] for row in batch["rows"] for name in row["samples"]]
    assert len(samples) == len(set(samples)) == 8
    for batch in step["batches"]:
        rows, positions = batch["shape"]
        assert positions <= 512
        assert len(batch["rows"]) == rows
        assert sum(row["filled"] for row in batch["rows"]) == round((1 - batch["padding"]) * rows * positions)
        assert sum(row["learnt"] for row in batch["rows"]) / rows == pytest.approx(batch["learnt"])
    assert main(["inspect", "batch", recipe, "--stage", "instruct", "--step", "1"]) == 0
    output = capsys.readouterr().out
    assert "step 1 of 5: 8 samples" in output
    assert all(name in output for name in samples)
    assert main(["inspect", "batch", recipe, "--step", "3"]) == 2
    assert "steps 0 to 2" in capsys.readouterr().err
