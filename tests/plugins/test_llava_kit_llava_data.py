from __future__ import annotations

import base64
import json
import pickle
import subprocess
import sys
from io import BytesIO

import pytest
from PIL import Image

from llava_kit.assemble.parts import build
from llava_kit.core.conversation import ClipFolder, ImageBytes, ImageFile, ImageSlot, ImageUrl
from llava_kit.errors import DataError, SampleError
from llava_kit.image.reader import picture_size, read_picture
from llava_kit_llava_data import recognise_llava_json

ROWS = [
    {
        "id": "a",
        "image": "x/1.jpg",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}],
    },
    {"id": 7, "conversations": [{"from": "human", "value": "Is <image> a tag?"}, {"from": "gpt", "value": "Yes: <image>."}]},
    {
        "id": "c",
        "image": ["1.jpg", "2.jpg"],
        "conversations": [
            {"from": "human", "value": "Here <image> and <image>: same?"},
            {"from": "gpt", "value": "No."},
            {"from": "human", "value": "Why?"},
            {"from": "gpt", "value": 'It is "so" \\ {[]} ü🙂'},
        ],
    },
]


def write(path, text: str | bytes):
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def source_of(path, **options):
    return build("source", "llava_json", path=str(path), **options)


def one_row(tmp_path, row, **options):
    return source_of(write(tmp_path / "rows.json", json.dumps([row])), **options)[0]


def said(sample) -> list[tuple[str, str]]:
    return [
        (message.role, "".join(part if isinstance(part, str) else f"<{part.index}>" for part in message.parts))
        for message in sample.conversation.messages
    ]


WRITTEN = {
    "array": json.dumps(ROWS),
    "indented": json.dumps(ROWS, indent=3, ensure_ascii=False),
    "odd spaces": "\ufeff \n[\n\n" + " ,\n\t ".join(json.dumps(row) for row in ROWS) + "\n]\n\n",
    "lines": "".join(json.dumps(row) + "\n" for row in ROWS),
    "lines without end": "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
    "lines of windows": "\ufeff" + "".join(json.dumps(row) + "\r\n" for row in ROWS),
}


@pytest.mark.parametrize("form", WRITTEN)
def test_rows_however_written(tmp_path, form):
    source = source_of(write(tmp_path / "rows.json", WRITTEN[form]))
    assert len(source) == 3
    assert [source[index].id for index in range(3)] == ["a", "7", "c"]
    assert said(source[0]) == [("user", "<0>\nWhat?"), ("assistant", "A cat.")]
    assert source[0].images == (ImageFile("x/1.jpg", str(tmp_path)),)
    assert said(source[1]) == [("user", "Is <image> a tag?"), ("assistant", "Yes: <image>.")]
    assert source[1].images == ()
    assert said(source[2])[0] == ("user", "Here <0> and <1>: same?")
    assert said(source[2])[3] == ("assistant", 'It is "so" \\ {[]} ü🙂')
    assert [image.name for image in source[2].images] == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ("[]", "found 0 rows"),
        ('{"a": 1,\n "b": 2}', "one JSON object"),
        ("hello", "begins with 'hello'"),
        (WRITTEN["array"].encode("utf-16"), "not UTF-8"),
        (json.dumps(ROWS, indent=1)[:-40], ":.*breaks off"),
        ('[{"a": 1},\n{"a": 2},\n{"a" 3},\n{"a": "4}]', r"rows.json:3: Expecting ':'"),
        ('[{"a": 1},\n17,\n{"a": 2}]', r"rows.json:1: found ',\\n17,' after row 0"),
        ('[{"a": 1}\n{"a": 2}]', "found '' after row 0"),
        ('[{"a": 1}] trailing', "found '] trailing' after row 0"),
        ('[{"a": 1}]]', "breaks off|found"),
    ],
)
def test_broken_files_are_told_with_their_line(tmp_path, text, told):
    with pytest.raises(DataError, match=told) as caught:
        source_of(write(tmp_path / "rows.json", text))
    assert not isinstance(caught.value, SampleError)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        source_of(tmp_path / "nowhere.json")


@pytest.mark.parametrize("form", ["array", "lines"])
def test_a_broken_row_spoils_nothing_but_itself(tmp_path, form):
    rows = [json.dumps(row) for row in ROWS]
    rows[1] = '{"id": 7, "conversations": [}'
    text = "[" + ", ".join(rows) + "]" if form == "array" else "\n".join(rows)
    if form == "array":
        rows[1] = '{"id": 7, "conversations": [,]}'
        text = "[" + ", ".join(rows) + "]"
    source = source_of(write(tmp_path / "rows.json", text))
    assert source[2].id == "c"
    with pytest.raises(SampleError, match="row 1 is no JSON") as caught:
        source[1]
    assert (caught.value.reason, caught.value.sample_id) == ("bad_row", "row 1")


TALK = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("image_count", {"id": "x", "image": ["1.jpg", "2.jpg"], "conversations": TALK}),
        ("image_count", {"id": "x", "image": "1.jpg", "conversations": [{"from": "human", "value": "What?"}, TALK[1]]}),
        (
            "image_count",
            {"id": "x", "image": "1.jpg", "conversations": [{"from": "human", "value": "<image><image>"}, TALK[1]]},
        ),
        ("image_count", {"id": "x", "image": "1.jpg", "conversations": [{"from": "human", "value": "a"}, TALK[0]]}),
        ("bad_turns", {"id": "x", "conversations": [{"from": "robot", "value": "What?"}]}),
        ("bad_turns", {"id": "x", "conversations": [{"value": "What?"}]}),
        ("bad_row", {"id": "x", "conversations": [{"from": "human"}]}),
        ("bad_row", {"id": "x", "conversations": [{"from": "human", "value": 3}]}),
        ("bad_row", {"id": "x", "conversations": ["What?"]}),
        ("bad_row", {"id": "x", "conversations": "What?"}),
        ("bad_row", {"id": "x"}),
        ("bad_row", {"id": "x", "image": 5, "conversations": TALK}),
        ("image_count", {"id": "x", "video": ["a", "b"], "conversations": TALK}),
        ("image_count", {"id": "x", "video": "a", "image": "1.jpg", "conversations": TALK}),
        ("bad_row", {"id": "x", "video": 5, "conversations": TALK}),
        ("url_not_allowed", {"id": "x", "video": "https://example.org/1", "conversations": TALK}),
        ("url_not_allowed", {"id": "x", "image": "s3://bucket/1.jpg", "conversations": TALK}),
        ("unreadable_image", {"id": "x", "image": "data:image/png;base64,!!", "conversations": TALK}),
    ],
)
def test_rows_that_are_refused(tmp_path, reason, row):
    if reason == "image_count" and row["conversations"][0]["value"] == "a":
        row = {**row, "conversations": [*row["conversations"][:1], {"from": "gpt", "value": "<image>"}]}
    with pytest.raises(SampleError) as caught:
        one_row(tmp_path, row)
    assert (caught.value.reason, caught.value.sample_id) == (reason, "x")
    assert "row 0" in caught.value.message


def test_row_that_is_no_object(tmp_path):
    with pytest.raises(SampleError, match="is a list"):
        one_row(tmp_path, [1])


def test_rows_without_a_name_have_a_number(tmp_path):
    assert one_row(tmp_path, {"conversations": [{"from": "human", "value": "a"}, TALK[1]]}).id == "row 0"


@pytest.mark.parametrize(
    ("value", "place", "found"),
    [
        ("What is it?\n<image>", "first", "<0>\nWhat is it?"),
        ("<image>\nWhat?", "first", "<0>\nWhat?"),
        (" <image> What? \n", "first", "<0>\nWhat?"),
        ("Is <image> it?", "first", "<0>\nIs  it?"),
        ("<image>", "first", "<0>"),
        ("What is it?\n<image>", "as_written", "What is it?\n<0>"),
        (" <image> What? \n", "as_written", " <0> What? \n"),
    ],
)
def test_the_only_picture_of_a_turn_goes_first(tmp_path, value, place, found):
    row = {"image": "1.jpg", "conversations": [{"from": "human", "value": value}, TALK[1]]}
    assert said(one_row(tmp_path, row, picture_place=place))[0] == ("user", found)


def test_pictures_in_later_turns(tmp_path):
    later = [{"from": "human", "value": "And this?\n<image>"}, {"from": "gpt", "value": "A dog."}]
    sample = one_row(tmp_path, {"image": ["1.jpg", "2.jpg"], "conversations": [*TALK, *later]})
    assert said(sample)[2] == ("user", "<1>\nAnd this?")


def test_an_answer_that_nobody_asked_for_is_skipped(tmp_path):
    sample = one_row(tmp_path, {"image": "1.jpg", "conversations": [TALK[1], *TALK]})
    assert [role for role, _ in said(sample)] == ["user", "assistant"]
    assert sample.tags == {"skipped_first_turn": True}


def test_openai_messages(tmp_path):
    buffer = BytesIO()
    Image.new("RGB", (5, 3)).save(buffer, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    row = {
        "id": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Compare <image> with "},
                    {"type": "image_url", "image_url": {"url": uri}},
                    {"type": "image_url", "image_url": {"url": "2.png"}},
                    {"type": "image", "image": "file:///3%20x.png"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "Same."}]},
        ],
    }
    sample = one_row(tmp_path, row, image_root="/pictures")
    assert said(sample) == [("user", "Compare <image> with <0><1><2>"), ("assistant", "Same.")]
    assert sample.conversation.system == "Be brief."
    assert isinstance(sample.images[0], ImageBytes)
    assert picture_size(sample.images[0]) == (5, 3)
    assert sample.images[1:] == (ImageFile("2.png", "/pictures"), ImageFile("/3 x.png", "/pictures"))


def test_openai_messages_with_a_list_of_pictures(tmp_path):
    content = [{"type": "image"}, {"type": "text", "text": "What?"}]
    row = {"images": ["1.png"], "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "A."}]}
    sample = one_row(tmp_path, row, picture_place="as_written")
    assert sample.conversation.messages[0].parts == (ImageSlot(0), "What?")
    with pytest.raises(SampleError, match="places for pictures"):
        one_row(tmp_path, {**row, "images": []})
    with pytest.raises(SampleError, match="type 'audio'"):
        one_row(tmp_path, {"messages": [{"role": "user", "content": [{"type": "audio"}]}]})


def test_other_names_of_keys(tmp_path):
    row = {"key": "k", "picture": "1.jpg", "turns": TALK}
    fields = {"id": "key", "image": "picture", "conversations": "turns"}
    sample = one_row(tmp_path, row, fields=fields)
    assert (sample.id, len(sample.images)) == ("k", 1)


def test_a_part_of_the_rows(tmp_path):
    path = write(tmp_path / "rows.json", WRITTEN["array"])
    part = source_of(path, start=1, stop=2)
    assert len(part) == 1
    assert part[0].id == "7"
    assert part.fingerprint() != source_of(path).fingerprint()
    with pytest.raises(IndexError):
        part[1]
    with pytest.raises(DataError, match="none from 3"):
        source_of(path, start=3)


def test_source_travels_to_workers(tmp_path):
    source = source_of(write(tmp_path / "rows.json", WRITTEN["array"]))
    source[0]
    assert pickle.loads(pickle.dumps(source))[2].id == "c"


MEASURE = """
import sys
from llava_kit_llava_data import LlavaJsonOptions
from llava_kit_llava_data.source import LlavaJsonSource

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

small = LlavaJsonSource(LlavaJsonOptions(path=sys.argv[1]))
small[len(small) - 1]
before = resident()
large = LlavaJsonSource(LlavaJsonOptions(path=sys.argv[2]))
for index in range(0, len(large), 97):
    large[index]
assert (len(small), len(large)) == (1_000, 100_000)
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    paths = []
    for count in (1_000, 100_000):
        path = tmp_path / f"{count}.json"
        with open(path, "w") as file:
            row = json.dumps(
                {"id": "x", "image": "1.jpg", "conversations": [TALK[0], {"from": "gpt", "value": "A cat. " * 40}]}
            )
            file.write("[" + ",\n".join([row] * count) + "]")
        paths.append(str(path))
    result = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 20e6


@pytest.mark.parametrize("word", ["<image>", "<video>"])
def test_videos_are_folders_of_frames(tmp_path, word):
    row = {"id": "x", "video": "clips/cat", "conversations": [{"from": "human", "value": f"{word}\nWhat?"}, TALK[1]]}
    sample = one_row(tmp_path, row, frames_per_second=2.0)
    assert sample.images == (ClipFolder("clips/cat", str(tmp_path), 2.0),)
    assert said(sample)[0] == ("user", "<0>\nWhat?")


def test_a_row_with_a_picture_and_a_video(tmp_path):
    turns = [{"from": "human", "value": "Is <video> like <image>? Say <video> or no."}, TALK[1]]
    with pytest.raises(SampleError, match="2 places for videos"):
        one_row(tmp_path, {"id": "x", "image": "1.jpg", "video": "cat", "conversations": turns})
    sample = one_row(tmp_path, {"id": "x", "image": "1.jpg", "video": ["cat", "dog"], "conversations": turns})
    assert said(sample)[0] == ("user", "Is <0> like <1>? Say <2> or no.")
    assert [image.name for image in sample.images] == ["cat", "1.jpg", "dog"]


def test_video_is_letters_in_a_row_without_one(tmp_path):
    turns = [{"from": "human", "value": "<image>\nWhat is a <video> tag?"}, TALK[1]]
    sample = one_row(tmp_path, {"id": "x", "image": "1.jpg", "conversations": turns})
    assert said(sample)[0] == ("user", "<0>\nWhat is a <video> tag?")


def test_a_video_among_the_parts_of_a_turn(tmp_path):
    content = [{"type": "video", "video": "cat"}, {"type": "text", "text": "What?"}]
    sample = one_row(tmp_path, {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "A."}]})
    assert sample.images == (ClipFolder("cat", str(tmp_path), 1.0),)
    assert sample.conversation.messages[0].parts == (ImageSlot(0), "What?")


def test_an_address_is_a_reference_that_no_reader_fetches(tmp_path):
    row = {"id": "x", "image": "https://me:key@example.org/a/1.jpg?sig=key#key", "conversations": TALK}
    (image,) = one_row(tmp_path, row).images
    assert isinstance(image, ImageUrl)
    assert image.name == "https://example.org/a/1.jpg?..."
    with pytest.raises(SampleError, match="nothing is fetched") as caught:
        read_picture(image)
    assert (caught.value.reason, "key" in str(caught.value)) == ("url_not_allowed", False)


SHAREGPT = [
    {"from": "system", "value": "You have tools."},
    {"from": "human", "value": "What is the weather?"},
    {"from": "function_call", "value": '{"name": "weather"}'},
    {"from": "observation", "value": "Rain."},
    {"from": "gpt", "value": "It rains."},
]


def test_sharegpt_with_tools(tmp_path):
    sample = one_row(tmp_path, {"id": "x", "conversations": SHAREGPT, "tools": "[]"})
    assert sample.conversation.system == "You have tools."
    assert [role for role, _ in said(sample)] == ["user", "assistant", "user", "assistant"]
    assert sample.tags == {"tools": True}


def test_openai_tools(tmp_path):
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "Rain."},
        {"role": "assistant", "content": "It rains."},
    ]
    sample = one_row(tmp_path, {"messages": messages})
    assert sample.conversation.system == "Be brief."
    assert said(sample)[1:3] == [("assistant", '{"name": "weather", "arguments": "{}"}'), ("user", "Rain.")]


TALKS = {
    "two answers": ["human", "gpt", "gpt", "human", "gpt"],
    "no last answer": ["human", "gpt", "human"],
    "two questions": ["human", "human", "gpt"],
    "system within": ["human", "gpt", "system", "human", "gpt"],
}


@pytest.mark.parametrize(
    ("name", "kept"), [("two answers", 2), ("no last answer", 2), ("two questions", 0), ("system within", 2)]
)
def test_turns_out_of_order_are_kept_refused_or_cut(tmp_path, name, kept):
    row = {"id": "x", "conversations": [{"from": role, "value": f"t{number}"} for number, role in enumerate(TALKS[name])]}
    assert len(one_row(tmp_path, row).conversation.messages) == len(TALKS[name])
    with pytest.raises(SampleError) as caught:
        one_row(tmp_path, row, turns="refuse")
    assert caught.value.reason == "bad_turns"
    if not kept:
        with pytest.raises(SampleError, match="turn 1 is by user; expected assistant"):
            one_row(tmp_path, row, turns="cut")
        return
    sample = one_row(tmp_path, row, turns="cut")
    assert said(sample) == [("user", "t0"), ("assistant", "t1")]
    assert sample.tags == {"cut_turns": len(TALKS[name]) - kept}


def test_pictures_of_turns_that_are_cut_go_with_them(tmp_path):
    empty = [{"from": "human", "value": "<image> <image>?"}, {"from": "gpt", "value": " "}]
    row = {"image": ["1.jpg", "2.jpg", "3.jpg"], "conversations": [*TALK, *empty]}
    sample = one_row(tmp_path, row, turns="cut")
    assert ([image.name for image in sample.images], len(sample.conversation.messages)) == (["1.jpg"], 2)
    with pytest.raises(SampleError) as caught:
        one_row(tmp_path, row, turns="refuse")
    assert caught.value.reason == "empty_answer"
    with pytest.raises(SampleError, match="turn 0 is not there"):
        one_row(tmp_path, {"conversations": []}, turns="cut")
    assert one_row(tmp_path, {"image": "1.jpg", "conversations": TALK}, turns="refuse").tags == {}


def test_keys_that_are_null_are_not_there(tmp_path):
    row = {"image": None, "images": ["1.jpg"], "conversations": None, "messages": TALK, "captions": None, "video": None}
    assert len(one_row(tmp_path, row).images) == 1


def test_objects_as_pictures(tmp_path):
    buffer = BytesIO()
    Image.new("RGB", (5, 3)).save(buffer, "PNG")
    images = [{"bytes": base64.b64encode(buffer.getvalue()).decode(), "path": "x"}, {"path": "2.jpg", "bytes": None}]
    sample = one_row(tmp_path, {"images": images, "conversations": [{"from": "human", "value": "<image><image>"}, TALK[1]]})
    assert picture_size(sample.images[0]) == (5, 3)
    assert sample.images[1] == ImageFile("2.jpg", str(tmp_path))


BOX = {"label": "cat", "box": [0, 0.5, 1, 1]}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (
            {"boxes": [BOX, {"label": "dog", "box": [0, 0, 1, 1e999]}]},
            r"box 1 \('dog'\) is \[0, 0, 1, inf\]; expected numbers that are",
        ),
        ({"boxes": [{"label": "dog", "box": [0, 0, 1]}]}, "expected .left, top, right, bottom"),
        ({"boxes": [{"label": "dog", "box": [0, 0, 1, "1"]}]}, "expected .left, top, right, bottom"),
        ({"boxes": [{"label": "dog", "box": [0, 0, 1, True]}]}, "expected .left, top, right, bottom"),
        ({"boxes": [{"label": 3, "box": [0, 0, 1, 1]}]}, "has a int as its label"),
        ({"boxes": [[0, 0, 1, 1]]}, "box 0 is a list; expected an object with label and box"),
        ({"boxes": [{"name": "cat"}]}, "box 0 has the keys 'name'"),
        ({"boxes": {"cat": [0, 0, 1, 1]}}, "its boxes are a dict"),
        ({"captions": "A cat."}, "its captions are a str; expected a list"),
        ({"captions": ["A cat.", None]}, "caption 1 is null"),
        ({"box_convention": "pixels"}, "box_convention is 'pixels'; expected 'picture' or 'padded'"),
    ],
)
def test_annotations_that_are_none(tmp_path, keys, told):
    row = {"id": "x", "conversations": TALK[1:], **keys}
    path = write(tmp_path / "rows.json", json.dumps([row]).replace("Infinity", "1e999"))
    with pytest.raises(SampleError, match=told) as caught:
        source_of(path)[0]
    assert caught.value.reason == "bad_annotation"
    assert "annotations=false" in caught.value.message
    assert not source_of(path, annotations=False)[0].annotations


def test_annotations(tmp_path):
    row = {"conversations": TALK[1:], "captions": ["A."], "boxes": [BOX], "box_convention": "picture"}
    found = one_row(tmp_path, row).annotations
    assert (found.captions, found.text_boxes, tuple(found.boxes[0])) == (("A.",), "picture", ("cat", 0.0, 0.5, 1.0, 1.0))


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have(tmp_path, name):
    path = write(tmp_path / "rows.json", json.dumps([ROWS[0]])[:-2] + f', "image2": {name}}}]')
    with pytest.raises(SampleError, match=f"row 0 holds {name}.*write null") as caught:
        source_of(path)[0]
    assert caught.value.reason == "bad_number"


def test_other_encodings_are_named(tmp_path):
    text = "".join(
        json.dumps({"conversations": [{"from": "human", "value": word}, TALK[1]]}, ensure_ascii=False) + "\n" for word in "aé"
    )
    source = source_of(write(tmp_path / "rows.jsonl", text.encode("latin-1")))
    assert said(source[0])[0] == ("user", "a")
    with pytest.raises(SampleError, match=r"0xe9, in Windows-1252 .Latin-1. 'é'.*iconv -f WINDOWS-1252") as caught:
        source[1]
    assert caught.value.reason == "bad_encoding"


def test_a_folder_stands_for_the_rows_in_it(tmp_path):
    with pytest.raises(DataError, match=r"is a folder without data.json or data.jsonl"):
        source_of(tmp_path)
    write(tmp_path / "data.jsonl", WRITTEN["lines"])
    assert source_of(tmp_path)[0].images == (ImageFile("x/1.jpg", str(tmp_path)),)
    write(tmp_path / "dataset.json", json.dumps({"llava_kit_dataset": 1, "image_root": "../pictures"}))
    for path in (tmp_path, tmp_path / "data.jsonl"):
        assert source_of(path)[0].images == (ImageFile("x/1.jpg", str(tmp_path.parent / "pictures")),)
    assert source_of(tmp_path, image_root="/else")[0].images == (ImageFile("x/1.jpg", "/else"),)
    # A stranger's data must not choose what is read here.
    for away in ("/etc", "../../elsewhere"):
        write(tmp_path / "dataset.json", json.dumps({"llava_kit_dataset": 1, "image_root": away}))
        with pytest.raises(DataError, match=r"away from this folder and its neighbours; if that is meant, say image_root="):
            source_of(tmp_path)
        assert source_of(tmp_path, image_root="/else")[0].images == (ImageFile("x/1.jpg", "/else"),)
    write(tmp_path / "dataset.json", "{")
    with pytest.raises(DataError, match=r"dataset.json: cannot be read"):
        source_of(tmp_path)


def test_the_rate_of_a_row_s_clips(tmp_path):
    row = {"video": "cat", "conversations": [{"from": "human", "value": "<video>"}, TALK[1]]}
    assert one_row(tmp_path, {**row, "frames_per_second": 4}).images == (ClipFolder("cat", str(tmp_path), 4.0),)
    with pytest.raises(SampleError, match="frames_per_second is '0'"):
        one_row(tmp_path, {**row, "frames_per_second": 0})


def test_what_is_recognised(tmp_path):
    def recognised(text):
        path = write(tmp_path / "file", text)
        return recognise_llava_json(str(path), path.read_bytes()[:4096]) is not None

    assert all(recognised(text) for text in WRITTEN.values())
    assert recognised(json.dumps([{"system": "x" * 9000, "conversations": TALK}]))
    assert not recognised('{"images": [], "annotations": []}')
    assert not recognised("conversations")
    assert not recognised("")
    assert recognise_llava_json(str(tmp_path), b"") is None
