"""Captions from the files in which people have them: CC3M's table, LLaVA's metadata, CSV with any columns, JSON."""

from __future__ import annotations

import csv
import io
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_kit.assemble.parts import build
from llava_kit.assemble.recognise import recognise
from llava_kit.core.conversation import ImageFile, ImageUrl
from llava_kit.errors import DataError, SampleError
from llava_kit.image.reader import read_pixels
from llava_kit_coco import recognise_captions

CC3M = [
    (
        "a very typical bus station",
        "http://lh6.ggpht.com/-IvRtNLNcG8o/TpFyrudaT6I/AAAAAAAAM6o/_11MuAAKalQ/IMG_3422.JPG?imgmax=800",
    ),
    ('sierra looked "stunning" in this top and this skirt', "http://78.media.tumblr.com/3b133294bdc7c7784b781e45f7.jpg"),
    ("young confused girl , standing", "https://media.gettyimages.com/photos/id106930785?s=170667a"),
]
LCS = [
    {"id": f"00453907{n}", "image": f"00453/00453907{n}.jpg", "blip_caption": f"a person {n}", "url": f"http://a.b/{n}.jpg"}
    for n in range(3)
]


def captions(path, **options):
    return build("source", "captions", path=str(path), **{"without_pictures": True, **options})


def write(tmp_path, name: str, data: str | bytes):
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return tmp_path / name


def said(sample) -> tuple[str, str]:
    request, answer = sample.conversation.messages
    return request.text, answer.text


def told(path, pattern: str, **options) -> None:
    with pytest.raises(DataError, match=pattern):
        captions(path, **options)


def test_cc3m_as_published(tmp_path):
    """No header, a caption and a URL, quotes that mark nothing."""
    path = write(tmp_path, "Train_GCC-training.tsv", "".join(f"{text}\t{url}\n" for text, url in CC3M))
    assert recognise(str(path)).type == "captions"
    source = captions(path)
    assert [(said(sample)[1], sample.images) for sample in source] == [(text, (ImageUrl(url),)) for text, url in CC3M]
    assert said(source[0])[0] == f"\n{source.options.request}"
    assert (source[2].id, source[2].tags, source[2].annotations.captions) == ("2", {"source": "captions"}, (CC3M[2][0],))
    with pytest.raises(SampleError) as caught:
        read_pixels(source[0].images[0])
    assert caught.value.reason == "url_not_allowed"
    assert list(pickle.loads(pickle.dumps(source))) == list(source)


def test_lcs_558k_as_published(tmp_path):
    """`blip_caption`, a picture by its path, and its URL beside it."""
    path = write(tmp_path, "blip_laion_cc_sbu_558k_meta.json", json.dumps(LCS))
    assert recognise(str(path)).type == "captions"
    source = captions(path, image_root="/pictures", request="Say it.")
    assert [sample.id for sample in source] == [row["id"] for row in LCS]
    assert source[1].images == (ImageFile("00453/004539071.jpg", "/pictures"),)
    assert said(source[1]) == ("\nSay it.", "a person 1")
    both: list[dict] = [{**row, "caption": f"original {number}"} for number, row in enumerate(LCS)]
    both[2]["image"] = None
    source = captions(write(tmp_path, "metadata.json", json.dumps(both)))
    assert said(source[0])[1] == "original 0"
    assert source[2].images == (ImageUrl("http://a.b/2.jpg"),)  # it has no file, but an address
    assert said(captions(tmp_path / "metadata.json", caption="blip_caption")[0])[1] == "a person 0"


def test_several_captions_of_a_picture(tmp_path):
    rows = [{"image": "val2014/1.jpg", "caption": ["One. ", "Two.", "Three."]}] * 20
    source = captions(write(tmp_path, "coco_karpathy_val.json", json.dumps(rows)))
    assert source[0].annotations.captions == ("One.", "Two.", "Three.")
    assert {said(sample)[1] for sample in source} == {"One.", "Two.", "Three."}


TABLES = {
    "csv": ("image,caption\r\n1.jpg,a cat\r\n2.png,\"a dog, a 3\"\" bone\nand a cat\"\r\n", {}),
    "csv without end": ('caption,filepath\na cat,1.jpg\n"a dog, a 3"" bone\nand a cat",2.png', {}),
    "byte order mark": ('\ufeffimage;title\n1.jpg;a cat\n2.png;"a dog, a 3"" bone\nand a cat"\n', {}),
    "tab with a header": ('image_path\ttext\n\n1.jpg\ta cat\n  \n2.png\ta dog, a 3" bone and a cat\n', {}),
    "path first, no header": ('1.jpg\ta cat\n2.png\ta dog, a 3" bone and a cat\n', {}),
    "tab with quotes": ('1.jpg\ta cat\n2.png\t"a dog, a 3"" bone\nand a cat"\n', {"quotes": True}),
    "by number": ("x\ta cat\t1.jpg\ny\ta dog, a 3\" bone and a cat\t2.png\n", {"caption": "2", "image": "3"}),
    "by name": ('words|where\na cat|1.jpg\n"a dog, a 3"" bone and a cat"|2.png\n',
                {"caption": "words", "image": "where", "header": True}),
    "flickr": ('image_name| comment_number| comment\n1.jpg| 0| a cat\n2.png| 1|"a dog, a 3"" bone and a cat"\n', {}),
    "a header that says nothing": ('a cat,1.jpg\n"a dog, a 3"" bone and a cat",2.png\n', {}),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_however_written(tmp_path, name):
    text, options = TABLES[name]
    source = captions(write(tmp_path, "table.txt", text), image_root="/p", **options)
    assert [said(sample)[1] for sample in source] == ["a cat", 'a dog, a 3" bone and a cat']
    assert [sample.images[0] for sample in source] == [ImageFile("1.jpg", "/p"), ImageFile("2.png", "/p")]


@settings(max_examples=120, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.text(alphabet='a",\n\t|é \u2028', max_size=8).filter(str.strip), st.integers(0, 99)),
        min_size=1,
        max_size=6,
    ),
    block=st.integers(1, 40),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_rows_of_any_csv(tmp_path_factory, rows, block, end):
    """As Python's own module writes them; blocks may end within a letter or a quoted field."""
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator=end)
    writer.writerows([("caption", "image"), *((text, f"{number}.jpg") for text, number in rows)])
    path = write(tmp_path_factory.mktemp("csv"), "t.csv", written.getvalue())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llava_kit_coco.caption_rows.BLOCK_BYTES", block)
        source = captions(path)
    assert [(said(sample)[1], sample.images[0].name) for sample in source] == [
        (" ".join(text.split()), f"{number}.jpg") for text, number in rows
    ]


def test_rows_that_cannot_be_used_are_named(tmp_path):
    text = b"caption\timage\ngood\t1.jpg\nthree\t2.jpg\tmore\nnot \xff utf\t3.jpg\n \t4.jpg\nno picture\t\nok\tftp://a.b/c.jpg\nend\t7.jpg\n"
    source = captions(write(tmp_path, "t.tsv", text))
    expected = [(1, "bad_row", "has 3 columns"), (2, "bad_row", "is not UTF-8"), (3, "empty_caption", "is empty")]
    expected += [(4, "bad_row", "a picture is called ''"), (5, "url_not_allowed", "expected a path, or http")]
    for index, reason, pattern in expected:
        with pytest.raises(SampleError, match=pattern) as caught:
            source[index]
        assert (caught.value.reason, caught.value.sample_id is None) == (reason, False)
    assert [said(source[index])[1] for index in (0, 6)] == ["good", "end"]
    with pytest.raises(IndexError):
        source[7]
    rows = captions(
        write(tmp_path, "t.jsonl", '{"image": "1.jpg", "caption": "a"}\n{"image": "2.jpg"}\n{"image": "3.jpg", "cap}\n')
    )
    for index, pattern in ((1, "its caption is 'None'"), (2, "is no JSON")):
        with pytest.raises(SampleError, match=pattern) as caught:
            rows[index]
        assert caught.value.reason == "bad_row"


def test_what_is_wrong_with_a_file_is_told(tmp_path):
    good = write(tmp_path, "good.tsv", "a cat\t1.jpg\n")
    told(good, r"caption=text: .* has the columns '1', '2'; known: 1, 2", caption="text")
    named = write(tmp_path, "named.csv", "title,url,pHash\na,http://a/1.jpg,0\n")
    told(named, r"image=urll: .*did you mean 'url'", image="urll")
    told(write(tmp_path, "unknown.csv", "alpha,beta\nfoo,bar\n"),
         r"which column is the caption and image cannot be told; its columns are '1', '2', the first row.*'alpha'")  # fmt: skip
    told(
        write(tmp_path, "keys.json", '[{"caption": "a", "number": 3}]'),
        r"which column is the image cannot be told.*'caption', 'number'",
    )
    told(write(tmp_path, "one.txt", "just words\nand more\n"), r"its first line is 'just words'; expected columns parted by")
    told(write(tmp_path, "empty.tsv", ""), "is empty")
    told(write(tmp_path, "head.csv", "caption,image\n"), "found 0 rows")
    told(write(tmp_path, "wide.tsv", "a cat\t1.jpg\n".encode("utf-16")), "is not UTF-8 text")
    told(write(tmp_path, "quotes.csv", 'caption,image\n"a cat,1.jpg\n'), r"odd number of '\"'.*quotes=false")
    told(tmp_path / "nowhere.tsv", "No such file")
    told(good, "image_root '/nowhere': found nothing", without_pictures=False, image_root="/nowhere")
    told(good, r"its pictures are not in .*looked for '1.jpg'", without_pictures=False)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(b"")
    told(good, rf"give image_root={tmp_path}/images", without_pictures=False)
    assert captions(good, without_pictures=False, image_root=str(tmp_path / "images"))[0].images[0].name == "1.jpg"


OTHERS = {
    "conversations": '[{"id": 1, "image": "1.jpg", "caption": "x", "conversations": []}]',
    "coco": '{"images": [{"id": 1}], "annotations": [{"caption": "x", "image_id": 1}]}',
    "caps_boxes": '{"image": "a.jpg", "captions": ["x"], "instances": [], "caption": "y"}',
    "text": "It was a dark night.\nThe end.\n",
    "table of numbers": "a,b\n1,2\n",
    "two words": "this\tthat\n",
    "three columns, no names": "a\t1.jpg\tb\n",
    "bytes": "\0\1\t.jpg\n",
    "nothing": "",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_caption_file_is_left_to_others(name):
    assert recognise_captions("x", OTHERS[name].encode()) is None
