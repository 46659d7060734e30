"""`llava-kit inspect image`: the published numbers, one clear error for each mistake, a drawing that shows what it says."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from llava_kit.cli.main import main

NEXT = '{"mode": "anyres", "pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]}'
SEVEN = NEXT.replace("]]}", "], [1344, 336], [336, 1344]]}")
MAX_9 = json.dumps({"mode": "anyres", "pinpoints": "(1x1),...,(6x6)", "max_tiles": 9})
RANGE = json.dumps({"mode": "anyres", "pinpoints": [[384 * i, 384 * j] for i in range(1, 7) for j in range(1, 7)]})


def inspect(capsys, *arguments: str) -> list[dict]:
    assert main(["inspect", "image", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys, *arguments: str) -> str:
    assert main(["inspect", "image", *arguments]) in (2, 3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


# Size, canvas in tiles, kept rows and columns, rows: from running the original code (the last column by arithmetic).
TABLE = [
    ("1x1", (1, 2), (24, 24), 1176, 1176),
    ("224x224", (1, 2), (24, 24), 1176, 1176),
    ("336x336", (1, 2), (24, 24), 1176, 1176),
    ("384x384", (2, 2), (48, 48), 2928, 2928),
    ("640x427", (2, 2), (32, 48), 2144, 2144),
    ("640x480", (2, 2), (36, 48), 2340, 2340),
    ("480x640", (2, 2), (48, 36), 2352, 2352),
    ("1000x1000", (2, 2), (48, 48), 2928, 2928),
    ("1920x1080", (2, 2), (28, 48), 1948, 1948),
    ("1080x1920", (2, 2), (48, 28), 1968, 1968),
    ("800x400", (2, 1), (24, 48), 1752, 1752),
    ("2000x500", (3, 1), (18, 72), 1890, 2904),
    ("500x2000", (1, 3), (72, 18), 1944, 2976),
    ("4000x300", (3, 1), (6, 72), 1014, 1352),
    ("300x4000", (1, 3), (72, 6), 1080, 1440),
    ("100x1000", (1, 3), (72, 8), 1224, 1224),
    ("3000x500", (3, 1), (12, 72), 1452, 2128),
]


def test_the_table_of_llava_next(capsys):
    sizes = [argument for size, *_ in TABLE for argument in ("--size", size)]
    five = inspect(capsys, *sizes, "--tile", "336", "--patch", "14", "--tiling", NEXT)
    seven = inspect(capsys, *sizes, "--tiling", SEVEN)
    for (size, tiles, kept, rows, rows_of_seven), found, with_seven in zip(TABLE, five, seven, strict=True):
        assert found["size"] == [int(side) for side in size.split("x")]
        assert found["canvas"] == [336 * tiles[0], 336 * tiles[1]]
        assert found["tiles"] == list(tiles)
        assert (found["kept"], found["rows"]) == (list(kept), rows), size
        assert with_seven["rows"] == rows_of_seven, size


def test_another_encoder(capsys):
    found = inspect(capsys, "--size", "1024x768", "--size", "100x1000", "--tile", "384", "--patch", "14", "--tiling", RANGE)
    assert [(row["tiles"], row["kept"], row["rows"]) for row in found] == [([3, 2], [54, 73], 4725), ([1, 3], [81, 9], 1539)]


def test_one_record_whole(capsys):
    record = inspect(capsys, "--size", "640x480", "--tiling", NEXT)
    assert record == [
        {
            "size": [640, 480],
            "canvas": [672, 672],
            "tiles": [2, 2],
            "resized": [672, 504],
            "offset": [0, 84],
            "kept": [36, 48],
            "shrunk": None,
            "merge": "spatial_unpad",
            "rows": 2340,
        }
    ]


@pytest.mark.parametrize(
    ("mode", "resized", "offset"),
    [("square", [448, 336], [-56, 0]), ("pad", [336, 252], [0, 42]), ("resize", [336, 336], [0, 0])],
)
def test_overview_only(capsys, mode, resized, offset):
    (record,) = inspect(capsys, "--size", "640x480", "--tiling", json.dumps({"mode": mode}))
    assert (record["canvas"], record["tiles"], record["kept"], record["rows"]) == ([336, 336], [1, 1], [24, 24], 576)
    assert (record["resized"], record["offset"]) == (resized, offset)


def test_rule_and_merge(capsys):
    keys = json.loads(NEXT)
    (record,) = inspect(capsys, "--size", "300x200", "--tiling", json.dumps(keys | {"rule": "transformers"}))
    assert record["canvas"] == [672, 336]
    (record,) = inspect(capsys, "--size", "300x200", "--tiling", json.dumps(keys | {"merge": "flat"}))
    assert (record["canvas"], record["kept"], record["rows"]) == ([336, 672], [48, 24], 1728)


def test_files_come_upright_and_before_sizes(capsys, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (10, 20)).save(tmp_path / "ä.png")
    found = inspect(capsys, "--size", "7x8", str(tmp_path / "turned.jpg"), str(tmp_path / "ä.png"))
    assert [record["size"] for record in found] == [[48, 64], [10, 20], [7, 8]]


def test_text(capsys, tmp_path):
    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    assert main(["inspect", "image", str(tmp_path / "a.png"), "--tiling", NEXT]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["picture", "size", "canvas", "tiles", "resized", "at", "kept", "rows"]
    assert lines[1].split()[1:] == ["640x480", "672x672", "2x2", "672x504", "0,84", "36x48", "2340"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["nothing to look at", "--size"]),
        (["--size", "640"], ["'640'", "WxH", "640x480"]),
        (["--size", "0x5"], ["'0x5'", "above 0"]),
        (["--size=-3x5"], ["'-3x5'", "WxH"]),
        (["--size", "5x5", "--tile", "x"], ["--tile", "'x'"]),
        (["--size", "5x5", "--tile", "0"], ["--tile", "'0'"]),
        (["--size", "5x5", "--tile", "10", "--patch", "14"], ["--patch", "14", "10 pixels"]),
        (["--size", "5x5", "--tiling", "{mode"], ["--tiling", "JSON"]),
        (["--size", "5x5", "--tiling", "[]"], ["--tiling", "JSON object"]),
        (["--size", "5x5", "--tiling", '{"mod": "pad"}'], ["mod: unknown key", "did you mean 'mode'"]),
        (["--size", "5x5", "--tiling", '{"mode": "padd"}'], ["'padd'", "did you mean 'pad'"]),
        (["--size", "5x5", "--tiling", '{"mode": ["pad"]}'], ["mode", "'pad'", "found a list"]),
        (["--size", "5x5", "--tiling", '{"merge": 1}'], ["merge", "spatial_unpad"]),
        (["--size", "5x5", "--tiling", '{"pinpoints": 3}'], ["pinpoints: expected a list or text, found 3"]),
        (["--size", "5x5", "--tiling", '{"mode": "anyres"}'], ["tiling.pinpoints"]),
        (["--size", "5x5", "--tiling", '{"mode": "anyres", "pinpoints": [[336, "a"]]}'], ["pinpoints.0.1", "'a'"]),
        (["--size", "5x5", "--tiling", '{"mode": "anyres", "pinpoints": [[100, 336]]}'], ["[100, 336]", "336 pixels"]),
        (
            ["--size", "5x5", "--tiling", '{"mode": "anyres", "pinpoints": "(1x1)"}'],
            ["pinpoints", "'(1x1)'", "'(1x1),...,(6x6)'"],
        ),
        (["--size", "5x5", "--tiling", '{"mode": "anyres_max_9"}'], ["mode: anyres and max_tiles: 9"]),
        (["--size", "5x5", "--tiling", '{"mode": "spatial_unpad"}'], ["mode: anyres and merge: spatial_unpad"]),
        (["--size", "5x5", "--tiling", '{"unpad": true}'], ["unpad", "merge: spatial_unpad"]),
        (["--size", "5x5", "--tiling", '{"image_aspect_ratio": "pad"}'], ["image_aspect_ratio", "called mode"]),
        (["--size", "5x5", "--tiling", '{"max_tiles": 9}'], ["tiling.max_tiles", "anyres", "spatial_unpad"]),
        (["--size", "5x5", "--recipe", "x", "--tile", "3"], ["--recipe", "--tile", "one or the other"]),
        (["nothing.jpg"], ["'nothing.jpg'", "no such file"]),
        (["https://example.org/a.jpg"], ["URL"]),
        (["--size", "5x5", "--png", "/nowhere/at/all.png"], ["--png /nowhere/at/all.png", "No such file"]),
    ],
)
def test_mistakes_get_one_clear_answer(capsys, arguments, words):
    told = complaint(capsys, *arguments)
    assert all(word in told for word in words), told
    assert len(told.strip().splitlines()) <= 8


def test_a_shrunk_canvas_is_told(capsys, tmp_path):
    arguments = ["--size", "1920x1080", "--size", "640x480", "--tile", "384", "--patch", "14", "--tiling", MAX_9]
    records = inspect(capsys, *arguments)
    assert [record["kept"] for record in records] == [[75, 135], [40, 54]]
    assert [record["shrunk"] for record in records] == [[60, 108], None]
    assert [record["rows"] for record in records] == [7269, 2929]
    assert main(["inspect", "image", *arguments, "--png", str(tmp_path / "cut.png")]) == 0
    told = capsys.readouterr().out
    assert "60x108" in told
    assert "at most 9 tiles" in told
    assert "merge spatial_unpad, rule llava" in told


RECIPE = """\
recipe_version: 1
name: mine
model:
  encoder: {type: shapes_vit, image_size: 32, patch_size: 8}
  connector: {type: %s}
  language_model: {type: shapes_lm}
  template: {type: plain}
  tiling: {mode: anyres, pinpoints: [[32, 64], [64, 32], [64, 64]]}
stages:
  align:
    train: {connector: {lr: 1e-3}}
    data: {source: {type: shapes, task: captions}}
    steps: 1
    global_batch_size: 1
    clip_norm: 1.0
"""


def test_recipe_says_tile_patches_and_tiling(capsys, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE % "mlp")
    (record,) = inspect(capsys, "--size", "96x64", "--recipe", str(recipe))
    assert (record["canvas"], record["tiles"]) == ([64, 64], [2, 2])
    # The canvas is 8 x 8 patches; a picture of 3:2 fills 5 lines, and the odd rest leaves one more in.
    assert (record["kept"], record["rows"]) == ([6, 8], 16 + 6 * 9)


def test_a_connector_that_joins_patches_is_counted(capsys, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE % "pixel_shuffle")
    (record,) = inspect(capsys, "--size", "64x64", "--recipe", str(recipe))
    assert (record["kept"], record["rows"]) == ([4, 4], 4 + 4 * 5)


def test_drawing_shows_picture_lines_and_bands(capsys, tmp_path):
    Image.new("RGB", (640, 480), (0, 90, 200)).save(tmp_path / "a.png")
    out = tmp_path / "cut.png"
    assert main(["inspect", "image", str(tmp_path / "a.png"), "--size", "1x20000", "--tiling", NEXT, "--png", str(out)]) == 0
    drawn = Image.open(out)
    assert drawn.mode == "RGB"
    assert drawn.width >= 800
    pixels = np.asarray(drawn).reshape(-1, 3)
    for colour in ((0, 90, 200), (242, 113, 28), (255, 255, 255)):  # the picture, the tile lines, the paper
        assert (pixels == colour).all(axis=1).mean() > 0.002
    assert (pixels.max(axis=1) < 30).mean() > 0.01  # the bands left out


@pytest.mark.parametrize("mode", ["square", "pad", "resize"])
@pytest.mark.parametrize("size", ["640x480", "480x640", "1x1", "1x20000", "20000x1"])
def test_every_shape_can_be_drawn(capsys, tmp_path, mode, size):
    out = tmp_path / "cut.png"
    assert main(["inspect", "image", "--size", size, "--tiling", json.dumps({"mode": mode}), "--png", str(out)]) == 0
    assert Image.open(out).height > 200


def test_help_imports_nothing_heavy():
    script = (
        "import sys\nfrom llava_kit.cli.main import main\n"
        "try:\n    main(['inspect', '--help'])\nexcept SystemExit:\n    pass\n"
        "loaded = {'torch', 'numpy', 'PIL', 'llava_kit.cli.inspect_image'} & set(sys.modules)\n"
        "raise SystemExit(f'loaded {loaded}' if loaded else 0)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "tokens" in run.stdout
    assert "batch" in run.stdout


def test_a_size_is_answered_without_torch():
    script = (
        "import sys\nfrom llava_kit.cli.main import main\n"
        f"assert main(['inspect', 'image', '--size', '640x480', '--tiling', '{NEXT}']) == 0\n"
        "raise SystemExit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
