"""The page in a real browser: what is seen is where it should be, and what people wrote stays letters."""

from __future__ import annotations

import io
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from llava_kit.data.look import look_at, pieces_of
from llava_kit.splice.layout import count_rows
from llava_kit.view.gallery import Gallery
from llava_kit.view.server import ViewServer
from llava_kit.view.static import write_static

from .conftest import HOSTILE, MAGENTA, SIDE, SIZES, Rows

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Pixels by which a drawn edge may miss: half of one for rounding, and the blur of scaling.
NEAR = 2.3


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(gallery):
    with ViewServer(gallery) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def file(rows, lens, tmp_path_factory):
    path = tmp_path_factory.mktemp("static") / "out.html"
    write_static(Gallery(Rows(rows), lens=lens, name="toy <rows>"), path)
    return path


class Watched:
    """One page for many tests: whom it asked, and what it said on its console or in dialogs."""

    def __init__(self, browser, address: str):
        self.address, self.asked, self.said = address, [], []
        self.page = browser.new_page(viewport={"width": 1000, "height": 700})
        self.page.set_default_timeout(30_000)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.goto(address)
        self.page.wait_for_selector(".sample-head")

    def check(self) -> None:
        assert [url for url in self.asked if not url.startswith((self.address, "data:"))] == []
        # A picture that the server refuses is logged by the browser itself.
        assert [text for text in self.said if "422" not in text] == []


@pytest.fixture(scope="module")
def live(browser, server):
    watched = Watched(browser, server.address)
    yield watched
    watched.page.close()


@pytest.fixture(scope="module")
def one_file(browser, file):
    watched = Watched(browser, file.as_uri())
    yield watched
    watched.page.close()


@pytest.fixture
def page(live):
    """The page that a server shows, at its first sample."""
    go(live.page, 0)
    yield live.page
    live.check()


@pytest.fixture(params=["live", "one_file"])
def either(request):
    """The page that a server shows, and the one that is a file."""
    watched = request.getfixturevalue(request.param)
    go(watched.page, 0)
    yield watched.page
    watched.check()


def go(page, number):
    if page.text_content(".sample-head h2") == f"#{number}":  # it would be drawn anew, some time later
        return
    page.fill("#number", str(number))
    page.press("#number", "Enter")
    page.wait_for_function("number => document.querySelector('.sample-head h2')?.textContent === '#' + number", arg=number)


def status(page, text):
    page.wait_for_function("text => document.getElementById('status').textContent === text", arg=text)


def numbers(page):
    return page.eval_on_selector_all(".row", "rows => rows.map(row => Number(row.dataset.number))")


def test_paging_jumping_and_keys(either):
    page = either
    status(page, "120 samples")
    assert numbers(page) == list(range(50))
    page.click("#next")
    page.wait_for_selector("[data-number='50'][aria-current]")
    assert numbers(page) == list(range(50, 100))
    page.locator("#detail").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("[data-number='100'][aria-current]")
    assert page.is_disabled("#next")
    page.keyboard.press("ArrowUp")
    page.wait_for_selector("[data-number='99'][aria-current]")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector("[data-number='100'][aria-current]")
    page.keyboard.press("j")
    page.wait_for_selector("[data-number='101'][aria-current]")
    go(page, 7)
    page.wait_for_selector("[data-number='7'][aria-current]")
    assert page.url.endswith("#7")
    page.fill("#number", "120")
    page.press("#number", "Enter")
    status(page, "found no sample 120; samples are 0 to 119")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert page.evaluate("() => document.activeElement.id") == "text"


def test_search_and_filters(either):
    page = either
    page.fill("#text", "QUESTION 7?")
    status(page, "1 of 120 samples match")
    assert numbers(page) == [21]
    page.click("text=Clear")
    status(page, "120 samples")
    for fill, found in (
        (lambda: page.select_option("#pictures", "many"), [7]),
        (lambda: page.check("#boxes"), [0, 1, 2, 3, 4, 12]),
        (lambda: page.check("#problem"), [8, 10, 11, 12, 13]),
        (lambda: (page.fill("#least", "300"), page.press("#least", "Enter")), [5]),
        (lambda: (page.fill("#source", "regions"), page.press("#source", "Enter")), [0, 1, 2, 3]),
        (lambda: (page.fill("#text", HOSTILE), page.press("#text", "Enter")), [4]),
    ):
        fill()
        # The truncated picture is known for what it is only where it has been read: in a file.
        wanted = sorted({*found, 9}) if found == [8, 10, 11, 12, 13] and page.url.startswith("file") else found
        status(page, f"{len(wanted)} of 120 samples match")
        assert numbers(page) == wanted
        page.click("text=Clear")
        status(page, "120 samples")


def seen_rectangle(page, selector):
    """left, top, right, bottom of what is magenta in a screenshot of the element, in its own pixels."""
    shot = np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")).astype(int)
    ys, xs = np.nonzero(np.abs(shot - MAGENTA).max(axis=2) < 60)
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


def drawn_box(page, selector, box):
    """The same of a box that is drawn over it, from its outer edge to its outer edge."""
    return page.evaluate(
        "([area, box]) => { const frame = document.querySelector(area), at = frame.querySelector(box).getBoundingClientRect(),"
        " from = frame.getBoundingClientRect(); return [at.left - from.left, at.top - from.top, at.right - from.left,"
        " at.bottom - from.top]; }",
        [selector, box],
    )


@pytest.mark.parametrize("number", [0, 1, 2, 3], ids=["wide padded", "tall padded", "wide", "tall"])
def test_boxes_lie_where_the_thing_is_seen(page, number):
    go(page, number)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.area img')].every(image => image.complete && image.naturalWidth)"
    )
    boxes = {
        (area, box): drawn_box(page, area, box)
        for area in (".area.whole", ".area.canvas")
        for box in (".box.beside", ".box.in-text")
    }
    for toggle in page.query_selector_all(".tools input[type=checkbox]"):
        toggle.uncheck()
    for (area, box), edges in boxes.items():
        seen = seen_rectangle(page, area)
        # The picture's own pixels are drawn large: the canvas and overview show it resampled.
        assert edges == pytest.approx(seen, abs=NEAR), (area, box)


@pytest.mark.parametrize("number", [0, 1])
def test_tiles_lie_where_the_tiler_cuts(page, lens, number):
    size = list(SIZES.values())[number]
    place = lens.plan.geometry(size)
    go(page, number)
    rows, cols = place.tiles
    assert page.locator(".area.canvas .tile-number").all_inner_texts() == [str(n + 1) for n in range(rows * cols)]
    for axis, (name, count) in enumerate((("line-x", cols), ("line-y", rows))):
        side, length = (("left", "width"), ("top", "height"))[axis]
        for area in (".area.canvas", ".area.whole"):
            found = page.evaluate(
                "([area, line, side, length]) => { const frame = document.querySelector(area).getBoundingClientRect();"
                " return [...document.querySelectorAll(`${area} .${line}`)].map(one => { const at ="
                " one.getBoundingClientRect(); return (at[side] + at[length] / 2 - frame[side]) / frame[length]; }); }",
                [area, name, side, length],
            )
            cuts = [at * place.canvas[axis] / count for at in range(1, count)]
            if area == ".area.whole":
                shares = [(cut - place.offset[axis]) / place.resized[axis] for cut in cuts]
            else:
                shares = [cut / place.canvas[axis] for cut in cuts]
            assert found == pytest.approx(shares, abs=0.004), (area, name)
    caption = page.locator("figcaption").nth(2).inner_text()
    assert f"= {count_rows(lens.plan.grid(size), SIDE) - SIDE.area} rows" in caption


def test_coloured_tokens_are_the_learnt_ones(page, lens, rows):
    for number in (0, 5):
        maker, sample = lens.maker, rows[number]
        lengths = [count_rows(one.grid, SIDE) for one in maker.shown(sample)]
        look = look_at(sample, maker.template, maker.tokenizer, picture_lengths=lengths, max_length=maker.max_length)
        words = pieces_of(maker.tokenizer, look.token_ids)
        go(page, number)
        seen = page.eval_on_selector_all(
            ".token-text .token:not(.left-out)",
            "all => all.map(one => [one.textContent, one.classList.contains('learnt'), one.classList.contains('place')])",
        )
        assert [learnt for _, learnt, _ in seen] == look.trainable
        texts = [(text, place) for text, _, place in seen]
        expected = [(word, False) for word, token in zip(words, look.token_ids) if token >= 0]
        assert [one for one in texts if not one[1]] == expected
        assert [text for text, place in texts if place] == [f"[picture 1: {lengths[0]} rows]"]
        learnt, plain = (
            page.eval_on_selector(selector, "one => getComputedStyle(one).backgroundColor")
            for selector in (".token-text .learnt", ".token-text .token:not(.learnt, .place)")
        )
        assert learnt != plain
        assert (page.locator(".turn.cut").count() > 0) == (number == 5)


def test_what_people_wrote_stays_letters(either):
    page = either
    go(page, 4)
    page.wait_for_selector(".conversation .body")
    assert page.title() == "toy <rows>"
    assert page.inner_text(".sample-head .id") == HOSTILE
    assert HOSTILE in page.locator(".conversation .body").nth(0).inner_text()
    assert page.locator(".area.whole .box.beside .name").inner_text() == HOSTILE
    assert page.inner_text(".captions li") == HOSTILE
    assert page.locator(".tags dt").nth(1).inner_text() == HOSTILE
    assert page.locator(".injected").count() == 0
    assert page.locator("#detail script, #list script, #list img").count() == 0


def test_what_is_wrong_stands_in_the_pictures_place(either):
    page = either
    for number, told in (
        (8, "there is no such file"),
        (9, "damaged"),
        (10, "has no turns"),
        (11, "fell over"),
        (12, "half of a character"),
    ):
        go(page, number)
        page.wait_for_selector(f".problem:has-text('{told}')")
    go(page, 13)
    page.wait_for_selector(".panels .panel:nth-child(3) img")


def test_histograms(either):
    page = either
    page.click("#tab-spreads")
    page.wait_for_selector("#spreads :text('All 120 samples')")
    page.wait_for_function(
        "() => document.querySelectorAll('.chart svg').length === 9"
        " && !document.getElementById('spreads').textContent.includes('so far')"
    )
    assert page.locator(".injected").count() == 0
    assert page.locator(".chart svg .bar").count() > 20
    page.click(".source:has-text('regions')")
    status(page, "4 of 120 samples match")


def test_nothing_sticks_out(page):
    for scheme, width in (("light", 360), ("dark", 1000)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        for number in (0, 4, 5):
            go(page, number)
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width
            assert page.eval_on_selector("#detail", "one => one.scrollWidth - one.clientWidth") <= 0
        names = ("color", "backgroundColor")
        colours = [page.eval_on_selector("body", "(body, name) => getComputedStyle(body)[name]", name) for name in names]
        ink, paper = (sum(map(int, colour[4:-1].split(","))) for colour in colours)
        assert (ink > paper) == (scheme == "dark")
    page.set_viewport_size({"width": 1000, "height": 700})
