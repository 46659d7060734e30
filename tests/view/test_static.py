from __future__ import annotations

import json
import re
from html import unescape

import pytest

from llava_kit.errors import LlavaKitError
from llava_kit.view import static
from llava_kit.view.gallery import Gallery
from llava_kit.view.page import data_block
from llava_kit.view.static import estimate, write_static

from .conftest import HOSTILE, Rows


@pytest.fixture
def small(rows, lens):
    return Gallery(Rows(rows), 16, lens, "small")


def blocks(page: str) -> dict:
    found = re.findall(r'<script type="application/json" id="data-([a-z0-9-]+)">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def test_all_is_in_the_file(small, tmp_path):
    shown = []
    size = write_static(small, tmp_path / "out.html", show=lambda done, total: shown.append((done, total)))
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert size == len(page.encode())
    assert shown[-1] == (16, 16)
    found = blocks(page)
    assert set(found) == {"about", "rows", "spreads", *(f"sample-{number}" for number in range(16))}
    assert found["spreads"]["done"] == 16
    assert found["rows"][4]["text"].startswith(HOSTILE)
    assert found["sample-0"]["pictures"][0]["sources"][0].startswith("data:image/png;base64,")
    assert len(found["sample-13"]["pictures"][0]["sources"]) == 3
    assert found["sample-9"]["pictures"][0]["problem"]["reason"] == "unreadable_image"
    assert found["sample-0"]["tokens"]["targets"] > 0
    assert list(tmp_path.iterdir()) == [tmp_path / "out.html"]


def test_nothing_is_fetched_and_nothing_can_end_a_block(small, tmp_path):
    write_static(small, tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:|#)", page) == []
    assert "http://" not in page.replace("http-equiv", "")
    assert "https://" not in page
    assert HOSTILE not in page
    assert page.count("</script>") == page.count("<script")
    assert re.search(r"script-src 'sha256-[^']+'; base-uri", unescape(page))


def test_a_block_holds_any_text():
    value = {"a": "</script><!--<script>", "b": "\u2028\ud800", "c": "&amp;"}
    block = data_block("x", value)
    assert block.count("<") == 2
    assert block.isascii()
    assert json.loads(block[block.index(">") + 1 : block.rindex("<")]) == value


def test_too_large_is_told_before_anything_is_written(small, tmp_path):
    with pytest.raises(LlavaKitError, match=r"would make a file of some .* MB; expected .*`--limit \d+` would fit"):
        write_static(small, tmp_path / "out.html", max_megabytes=0.06)
    assert list(tmp_path.iterdir()) == []


def test_growing_beyond_the_limit_leaves_nothing(small, tmp_path, monkeypatch):
    monkeypatch.setattr(static, "estimate", lambda gallery: 1.0)
    with pytest.raises(LlavaKitError, match="grew beyond"):
        write_static(small, tmp_path / "out.html", max_megabytes=0.06)
    assert list(tmp_path.iterdir()) == []


def test_the_estimate_is_near(rows, tmp_path):
    gallery = Gallery(Rows(rows[20:60]))
    size = write_static(gallery, tmp_path / "out.html")
    assert 40 * estimate(gallery) == pytest.approx(size - 70_000, rel=0.6)


def test_a_folder_that_is_not_there(small, tmp_path):
    with pytest.raises(LlavaKitError, match="cannot be written: No such file"):
        write_static(small, tmp_path / "nowhere" / "out.html")
