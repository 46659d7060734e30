"""Parquet files and data sets of Hugging Face: every published form of a row is read, lazily, and nothing else is opened."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys

import pytest
from PIL import Image

from llava_kit.assemble.parts import build
from llava_kit.assemble.recognise import recognise
from llava_kit.core.annotations import Box
from llava_kit.core.conversation import ImageBytes, ImageFile, ImageSlot
from llava_kit.errors import DataError, SampleError
from llava_kit.image.reader import read_picture

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TALK = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def jpeg(number=0, size=(8, 6)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (number * 40 % 256, 9, 9)).save(out, "JPEG")
    return out.getvalue()


def cell(number=0):
    return {"bytes": jpeg(number), "path": f"{number}.jpg"}


def write(path, columns, schema=None, **how):
    types = dict(schema or {})
    arrays = {name: pa.array(values, types.get(name)) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), path, **how)
    return str(path)


def said(sample):
    return [
        (message.role, "".join(part if isinstance(part, str) else f"<{part.index}>" for part in message.parts))
        for message in sample.conversation.messages
    ]


def one(tmp_path, columns, schema=None, **options):
    path = write(tmp_path / "t.parquet", {name: [value] for name, value in columns.items()}, schema)
    return build("source", "parquet", path=path, **options)[0]


ASKED = [("user", "<0>\nWhat?"), ("assistant", "A cat.")]


@pytest.mark.parametrize(
    ("columns", "schema"),
    [
        ({"id": "a", "image": cell(), "conversations": TALK}, {"image": PICTURE}),
        ({"id": "a", "images": [cell()], "conversations": TALK}, {}),
        ({"id": "a", "image": jpeg(), "conversations": json.dumps(TALK)}, {}),
        ({"id": "a", "images": [jpeg()], "conversations": TALK}, {"images": pa.list_(pa.binary())}),
        (
            {
                "id": "a",
                "images": [cell()],
                "messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}],
            },
            {},
        ),
        (
            {
                "id": "a",
                "images": [cell()],
                "messages": [
                    {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]},
                    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
                ],
            },
            {},
        ),
        ({"id": "a", "images": [cell()], "texts": [{"user": "What?", "assistant": "A cat.", "source": "x"}]}, {}),
        ({"question_id": "a", "image": cell(), "question": "What?", "answer": "A cat."}, {}),
        ({"question_id": "a", "image": cell(), "question": "What?", "answers": ["No.", "A cat.", "A cat."]}, {}),
        ({"id": "a", "image": cell(), "query": "What?", "label": ["A cat."]}, {}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_every_form_of_a_row(tmp_path, columns, schema):
    sample = one(tmp_path, columns, schema)
    assert sample.id == "a"
    assert said(sample) == ASKED
    (picture,) = sample.images
    assert isinstance(picture, ImageBytes)
    assert read_picture(picture).size == (8, 6)
    assert sample.tags["source"] == ("x" if "texts" in columns else "t")


def test_captions_become_an_answer_and_annotations(tmp_path):
    sample = one(tmp_path, {"image": cell(), "caption": ["A cat.", "Some cat."]}, instruction="Say it.")
    assert said(sample) == [("user", "<0>\nSay it."), ("assistant", "A cat.")]
    assert sample.annotations.captions == ("A cat.", "Some cat.")
    assert sample.id == "row 0"


def test_named_columns_go_before_guesses(tmp_path):
    columns = {"key": 7, "photo": cell(), "q": "Why?", "a": 3.0, "question": "no", "answer": "no", "conversations": TALK}
    fields = {"id": "key", "image": "photo", "question": "q", "answer": "a"}
    sample = one(tmp_path, columns, fields=fields, name="mine")
    assert (sample.id, said(sample), sample.tags) == ("7", [("user", "<0>\nWhy?"), ("assistant", "3")], {"source": "mine"})


def test_several_pictures_and_several_columns_of_them(tmp_path):
    talk = [{"from": "human", "value": "Here <image> and <image>: same?"}, {"from": "gpt", "value": "No."}]
    sample = one(
        tmp_path, {"image_1": cell(1), "image_2": cell(2), "image_10": None, "conversations": talk}, {"image_10": PICTURE}
    )
    assert said(sample)[0] == ("user", "Here <0> and <1>: same?")
    assert [picture.name for picture in sample.images] == ["1.jpg", "2.jpg"]
    listed = one(tmp_path, {"images": [cell(1), cell(2)], "texts": [{"user": "Same?", "assistant": "No."}] * 2})
    assert [text for _, text in said(listed)] == ["<0><1>\nSame?", "No.", "Same?", "No."]


def test_a_row_without_a_picture_says_its_words_as_they_are(tmp_path):
    talk = [{"from": "human", "value": "Is <image> a tag?"}, {"from": "gpt", "value": "Yes."}]
    sample = one(tmp_path, {"image": None, "conversations": talk}, {"image": PICTURE})
    assert (said(sample)[0][1], sample.images) == ("Is <image> a tag?", ())


def test_what_convert_writes_comes_back_whole(tmp_path):
    columns = {
        "id": "a",
        "images": [cell()],
        "conversations": [{"from": "system", "value": "Be brief."}, *TALK],
        "captions": json.dumps(["one", "two"]),
        "boxes": json.dumps([{"label": "cat", "box": [0, 0.25, 0.5, 1]}]),
        "box_convention": "padded",
        "tags": json.dumps({"source": "coco", "provenance": "by hand"}),
    }
    sample = one(tmp_path, columns)
    assert sample.conversation.system == "Be brief."
    assert sample.annotations.captions == ("one", "two")
    assert sample.annotations.boxes == (Box("cat", 0.0, 0.25, 0.5, 1.0),)
    assert sample.annotations.text_boxes == "padded"
    assert sample.tags == {"source": "coco", "provenance": "by hand"}


@pytest.mark.parametrize("number", ["NaN", "1e999", "1" + "0" * 400])
def test_a_box_of_no_numbers_is_told(tmp_path, number):
    columns = {
        "id": "a",
        "images": [cell()],
        "conversations": TALK,
        "boxes": f'[{{"label": "cat", "box": [0, 0, 1, {number}]}}]',
    }
    with pytest.raises(SampleError, match=r"box 'cat' is .*; expected numbers that are finite") as caught:
        one(tmp_path, columns)
    assert (caught.value.reason, caught.value.sample_id) == ("bad_annotation", "a")


def test_a_path_in_a_row_opens_nothing_outside_its_folder(tmp_path):
    (tmp_path / "data").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "secret.png")
    for path in (str(tmp_path / "secret.png"), "../secret.png", "/etc/passwd", "http://127.0.0.1/x.png"):
        picture = {"path": path, "bytes": None}
        sample = one(tmp_path / "data", {"image": picture, "conversations": TALK}, {"image": PICTURE})
        assert isinstance(sample.images[0], ImageFile)
        with pytest.raises(SampleError) as error:
            read_picture(sample.images[0])
        assert error.value.reason in ("outside_root", "url_not_allowed")
    sample = one(tmp_path / "data", {"image": "secret.png", "conversations": TALK}, image_root=str(tmp_path))
    assert read_picture(sample.images[0]).size == (8, 6)


@pytest.mark.parametrize(
    ("columns", "reason", "told"),
    [
        ({"images": [cell()] * 2, "conversations": TALK}, "image_count", "1 places for pictures (<image>), and the row has 2"),
        ({"image": cell(), "conversations": [{"from": "cat", "value": "x"}]}, "bad_turns", "turn 0 is by 'cat'"),
        ({"image": cell(), "conversations": "[broken"}, "bad_row", "its turns are nothing; expected a list"),
    ],
)
def test_a_bad_row_is_told_and_spoils_nothing_else(tmp_path, columns, reason, told):
    with pytest.raises(SampleError) as error:
        one(tmp_path, {"id": "a", **columns})
    assert (error.value.reason, error.value.sample_id) == (reason, "a")
    assert told in error.value.message


# --- random access ----------------------------------------------------------------------------------------------------


def shards(folder, rows=100, files=3, group=16, size=(8, 6)):
    folder.mkdir()
    for number in range(files):
        ids = [f"{number}-{row}" for row in range(rows)]
        talk = [TALK] * rows
        pictures = [cell(row) for row in range(rows)]
        write(
            folder / f"train-{number:05d}.parquet", {"id": ids, "image": pictures, "conversations": talk}, row_group_size=group
        )
    return str(folder)


def test_rows_come_by_number_in_any_order_and_through_pickle(tmp_path):
    source = build("source", "parquet", path=shards(tmp_path / "data"))
    expected = [f"{file}-{row}" for file in range(3) for row in range(100)]
    assert len(source) == 300
    assert [source[number].id for number in (0, 299, 15, 16, 250, 3, -1)] == [
        expected[number] for number in (0, 299, 15, 16, 250, 3, -1)
    ]
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[number].id for number in range(300)] == expected
    assert copy.fingerprint() == source.fingerprint()
    with pytest.raises(IndexError):
        source[300]


def test_a_fork_reads_on_its_own(tmp_path):
    source = build("source", "parquet", path=shards(tmp_path / "data"))
    source[20]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, source[21].id.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"0-21"
    assert source[21].id == "0-21"


def test_memory_does_not_grow_with_the_file(tmp_path):
    """30 MB of pictures in one row group; a megabyte of cache."""
    noise = [os.urandom(500_000) for _ in range(4)]
    columns = {"image": [{"bytes": noise[row % 4], "path": ""} for row in range(60)], "conversations": [TALK] * 60}
    path = write(tmp_path / "t.parquet", columns, use_dictionary=False)
    del columns
    source = build("source", "parquet", path=path, cache_megabytes=1)
    source[0]
    before, most = pa.total_allocated_bytes(), 0
    for number in (*range(60), 5):
        assert source[number].images[0].data == noise[number % 4]  # type: ignore[union-attr]
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 25_000_000


def test_a_damaged_name_in_the_footer_is_told(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": ["a.png"], "caption": ["A cat."]}), path, store_schema=False)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"caption") + 4] = 0xFF
    path.write_bytes(data)
    with pytest.raises(SampleError, match="row group 0 cannot be decoded"):
        build("source", "parquet", path=str(path))[0]


def test_a_value_that_is_stored_once_and_meant_often_is_no_bomb(tmp_path):
    """A gigabyte of pictures in a file of half a megabyte; what is decoded at once is a quarter of it."""
    once = pa.array([os.urandom(500_000)], pa.binary())
    pictures = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), once)
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": pictures, "caption": ["A cat."] * 2000}), path, store_schema=False)
    assert os.path.getsize(path) < 1_000_000
    source = build("source", "parquet", path=str(path))
    before = pa.default_memory_pool().max_memory()
    for number in (0, 1):
        assert len(source[number].images[0].data) == 500_000  # type: ignore[union-attr]
    assert pa.default_memory_pool().max_memory() - before < 600_000_000


def test_text_that_is_no_text_costs_its_own_row(tmp_path):
    words = pa.array([b"What?", b"\xff\xfe", b"Why?"], pa.binary())
    questions = pa.StringArray.from_buffers(3, words.buffers()[1], words.buffers()[2])
    pq.write_table(pa.table({"question": questions, "answer": ["x"] * 3}), tmp_path / "t.parquet")
    source = build("source", "parquet", path=str(tmp_path / "t.parquet"))
    with pytest.raises(SampleError, match=r"row 1: .* cannot be decoded: UnicodeDecodeError"):
        source[1]
    assert said(source[2])[0] == ("user", "Why?")


def test_only_the_needed_rows_are_decoded_again(tmp_path):
    source = build("source", "parquet", path=shards(tmp_path / "data", rows=64, files=1, group=64))
    decoded = []
    plain = source._rows._decode
    source._rows._decode = lambda *place: decoded.append(place) or plain(*place)
    for number in (*range(64), *range(63, -1, -1)):
        source[number]
    assert len(decoded) == 1, "the whole row group is one slice, and stays"


def test_the_fingerprint_changes_with_the_data(tmp_path):
    first = build("source", "parquet", path=write(tmp_path / "a.parquet", {"question": ["x"], "answer": ["y"]}))
    other = build("source", "parquet", path=write(tmp_path / "b.parquet", {"question": ["x"], "answer": ["z"]}))
    assert first.fingerprint() != other.fingerprint()


# --- data sets of Hugging Face ----------------------------------------------------------------------------------------

datasets = pytest.importorskip("datasets")


def hub_rows(count=5):
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "images": datasets.Sequence(datasets.Image()),
            "texts": [{"user": datasets.Value("string"), "assistant": datasets.Value("string")}],
        }
    )
    rows = {
        "id": [f"r{number}" for number in range(count)],
        "images": [[cell(number)] for number in range(count)],
        "texts": [[{"user": "What?", "assistant": "A cat."}]] * count,
    }
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_saved_data_set_is_read_with_its_pictures_as_bytes(tmp_path):
    datasets.DatasetDict(train=hub_rows(), test=hub_rows(2)).save_to_disk(tmp_path / "d")
    assert recognise(str(tmp_path / "d")).type == "hf_dataset"
    with pytest.raises(DataError, match="holds the splits train, test; say which"):
        build("source", "hf_dataset", path=str(tmp_path / "d"))
    with pytest.raises(DataError, match="has no split 'tran'; did you mean 'train'"):
        build("source", "hf_dataset", path=str(tmp_path / "d"), split="tran")
    source = build("source", "hf_dataset", path=str(tmp_path / "d"), split="train")
    assert len(source) == 5
    assert (source[3].id, said(source[3])) == ("r3", ASKED)
    assert source[3].images == (ImageBytes(jpeg(3), "3.jpg"),)
    assert pickle.loads(pickle.dumps(source))[4].id == "r4"
    shuffled = hub_rows().shuffle(seed=1)  # its rows are found through a list of numbers
    shuffled.save_to_disk(tmp_path / "s")
    one_split = build("source", "hf_dataset", path=str(tmp_path / "s"))
    assert [one_split[number].id for number in range(5)] == shuffled["id"][:]
    assert one_split.fingerprint() != source.fingerprint()


def test_the_answer_may_be_a_class(tmp_path):
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"image": [cell()], "question": ["What?"], "label": [1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "d")
    assert said(build("source", "hf_dataset", path=str(tmp_path / "d"))[0])[1] == ("assistant", "dog")


def test_a_folder_that_datasets_reads_itself_stays_offline(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "d").mkdir()
    # A card may tell the library to fetch other files.
    (tmp_path / "d" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: http://127.0.0.1:9/x.json\n---\n"
    )
    (tmp_path / "d" / "train.jsonl").write_text(json.dumps({"question": "What?", "answer": "A cat.", "image": "/etc/passwd"}))
    source = build("source", "hf_dataset", path=str(tmp_path / "d"))
    assert said(source[0]) == ASKED
    with pytest.raises(SampleError, match="leads out of its folder"):
        read_picture(source[0].images[0])


def test_a_folder_of_pictures_with_a_list_of_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "d").mkdir()
    for number in range(2):
        (tmp_path / "d" / f"{number}.jpg").write_bytes(jpeg(number))
    rows = [{"file_name": f"{number}.jpg", "text": f"cat {number}"} for number in range(2)]
    (tmp_path / "d" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = build("source", "hf_dataset", path=str(tmp_path / "d"))
    assert sorted(said(source[number])[1][1] for number in range(2)) == ["cat 0", "cat 1"]
    assert read_picture(source[1].images[0]).size == (8, 6)


# --- recognition ------------------------------------------------------------------------------------------------------


def test_files_and_folders_are_recognised(tmp_path):
    path = write(tmp_path / "anything", {"question": ["x"], "answer": ["y"]})
    assert recognise(path).type == "parquet"
    assert recognise(shards(tmp_path / "data", rows=1)).type == "parquet"


def test_a_missing_library_is_told_in_one_line(tmp_path):
    path = write(tmp_path / "t.parquet", {"question": ["x"], "answer": ["y"]})
    program = (
        "import sys; sys.modules['pyarrow'] = sys.modules['pyarrow.parquet'] = sys.modules['datasets'] = None\n"
        "import llava_kit_tables as tables\n"
        "parquet, hub = (tables.build_parquet, tables.ParquetOptions), (tables.build_hf_dataset, tables.HfDatasetOptions)\n"
        "for build, options in (parquet, hub):\n"
        "    try: build(options(path=sys.argv[1]))\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert all(line.startswith("PluginError") and "pip install 'llava-kit[data]'" in line for line in lines)


def test_slots_point_at_every_picture_once(tmp_path):
    source = build("source", "parquet", path=shards(tmp_path / "data", rows=3, files=1))
    for number in range(3):
        parts = [part for message in source[number].conversation.messages for part in message.parts]
        assert [part.index for part in parts if isinstance(part, ImageSlot)] == [0]


def test_a_caption_within_json(tmp_path):
    """SynthDoG's pages: the text of the page stands in JSON within a column of text."""
    truth = json.dumps({"gt_parse": {"text_sequence": "Dares Wins Vol. 5"}})
    fields = {"caption": "ground_truth", "caption_at": "gt_parse.text_sequence"}
    row = {"image": cell(), "ground_truth": truth}
    sample = one(tmp_path, row, {"image": PICTURE}, fields=fields, instruction="Read it.")
    assert said(sample) == [("user", "<0>\nRead it."), ("assistant", "Dares Wins Vol. 5")]
    assert sample.annotations.captions == ("Dares Wins Vol. 5",)
    for wrong, found in ((truth.replace("text_seq", "seq"), "'sequence'"), ("[]", "a list"), ("Dares", "a NoneType")):
        with pytest.raises(SampleError, match=f"nothing at 'gt_parse.text_sequence'; found {found} in the place of"):
            one(tmp_path, {**row, "ground_truth": wrong}, {"image": PICTURE}, fields=fields)
