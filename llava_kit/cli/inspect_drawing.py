"""How a picture is cut, drawn: the picture, its overview tile, and its canvas with tiles, left-out bands and counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from ..image.geometry import Geometry, TilingPlan

if TYPE_CHECKING:
    from ..data.cut import Cut

PAPER, INK, QUIET, LINE, FRAME = "#ffffff", "#1b1f24", "#667085", "#f2711c", "#98a2b3"
SHADE, STRIPE = (20, 24, 33, 150), (242, 113, 28, 210)
PLACEHOLDER, CROSS = "#dfe6f0", "#b4c0d2"
PANEL = 420  # pixels: the longest side of a panel
GAP, MARGIN = 48, 40
TITLE, TEXT = 26, 19  # pixels of letters
PADDING_COLOUR = {"pad": (122, 116, 104), "anyres": (0, 0, 0)}  # CLIP's mean colour; black


class Panel(NamedTuple):
    """A drawn area and the lines of text below it."""

    image: Image.Image
    lines: list[str]


def draw(cuts: list[Cut], plan: TilingPlan) -> Image.Image:
    """One sheet, a strip for each picture."""
    strips = [_strip(cut, plan) for cut in cuts]
    width = max(strip.width for strip in strips)
    sheet = Image.new("RGB", (width, sum(strip.height for strip in strips)), PAPER)
    y = 0
    for strip in strips:
        sheet.paste(strip, (0, y))
        y += strip.height
    return sheet


def _strip(cut: Cut, plan: TilingPlan) -> Image.Image:
    panels = [_whole(cut, plan), _overview(cut, plan)]
    if cut.grid.tiles.area:
        panels.append(_canvas(cut, plan))
    title, text = _font(TITLE), _font(TEXT)
    parts = f"{cut.side.area:,} + {cut.rows - cut.side.area:,} = " if cut.grid.tiles.area else ""
    heading = f"{cut.name}: {parts}{cut.rows:,} rows"
    tallest = max(panel.image.height for panel in panels)
    widths = [max(panel.image.width, *(round(text.getlength(line)) for line in panel.lines)) for panel in panels]
    width = max(sum(widths) + GAP * (len(panels) - 1), round(title.getlength(heading))) + 2 * MARGIN
    top = MARGIN + TITLE + 24
    height = top + tallest + 16 + max(len(panel.lines) for panel in panels) * (TEXT + 8) + MARGIN
    strip = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(strip)
    pen.text((MARGIN, MARGIN), heading, INK, title, anchor="lt")
    x = MARGIN
    for panel, room in zip(panels, widths):
        strip.paste(panel.image, (x, top + tallest - panel.image.height))
        for number, line in enumerate(panel.lines):
            place = (x, top + tallest + 16 + number * (TEXT + 8))
            pen.text(place, line, INK if number == 0 else QUIET, text, anchor="lt")
        x += room + GAP
    return strip


def _whole(cut: Cut, plan: TilingPlan) -> Panel:
    """The picture in its own ratio, with a shade over what mode `square` crops; a pale frame where only a size was given."""
    width, height = size = _fitted(cut.grid.size)
    everything = Geometry(cut.grid.size, cut.grid.size, (0, 0), cut.place.tiles)
    image = _placed(cut, everything, size, PAPER)
    about = "{} x {} pixels".format(*cut.grid.size)
    if plan.options.mode == "square" and width != height:
        image = image.convert("RGBA")
        x, y = (round(-at * full / new) for at, full, new in zip(cut.place.offset, size, cut.place.resized))
        for band in ((0, 0, x, height), (width - x, 0, width, height), (0, 0, width, y), (0, height - y, width, height)):
            _shade(image, band)
        image = image.convert("RGB")
        about += "; the shaded part is cropped"
    ImageDraw.Draw(image).rectangle((0, 0, size[0] - 1, size[1] - 1), outline=FRAME)
    return Panel(image, ["picture", about])


def _overview(cut: Cut, plan: TilingPlan) -> Panel:
    """The first tile, as the encoder sees it."""
    size = PANEL * 2 // 3 if cut.grid.tiles.area else PANEL
    image = _placed(cut, cut.overview, (size, size), PADDING_COLOUR.get(plan.options.mode, PAPER))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, size - 1, size - 1), outline=LINE, width=3)
    rows = cut.side.area
    return Panel(
        image,
        [
            f"overview: {cut.side.rows} x {cut.side.cols} = {rows:,} rows",
            f"{plan.tile} x {plan.tile} pixels, {plan.options.mode}",
        ],
    )


def _canvas(cut: Cut, plan: TilingPlan) -> Panel:
    """The canvas with the picture in place, a line round each tile, and a shade over what is left out."""
    width, height = size = _fitted(cut.place.canvas)
    image = _placed(cut, cut.place, size, (0, 0, 0)).convert("RGBA")
    tiles, side = cut.grid.tiles, cut.side
    shares = cut.kept_shares
    left, right, top, bottom = (
        round(share * length)
        for share, length in ((shares[0], width), (shares[2], width), (shares[1], height), (shares[3], height))
    )
    y0, y1, x0, x1 = cut.kept
    for band in ((0, 0, width, top), (0, bottom, width, height), (0, 0, left, height), (right, 0, width, height)):
        _shade(image, band)
    image = image.convert("RGB")
    pen = ImageDraw.Draw(image)
    for column in range(1, tiles.cols):
        x = round(column * width / tiles.cols)
        pen.line((x, 0, x, height), LINE, 3)
    for row in range(1, tiles.rows):
        y = round(row * height / tiles.rows)
        pen.line((0, y, width, y), LINE, 3)
    pen.rectangle((0, 0, width - 1, height - 1), outline=LINE, width=3)
    for number in range(tiles.area):
        row, column = divmod(number, tiles.cols)
        _tag(pen, (round((column + 0.5) * width / tiles.cols), round((row + 0.5) * height / tiles.rows)), str(number + 1))
    kept_rows, kept_columns = y1 - y0, x1 - x0
    rows, columns = cut.shrunk or (kept_rows, kept_columns)
    each = f"({columns} + newline)" if cut.grid.merge == "spatial_unpad" else str(columns)
    counted = f"canvas: {rows} x {each} = {cut.rows - side.area:,} rows"
    if cut.shrunk is not None:
        counted += f", shrunk from {kept_rows} x {kept_columns}"
    left_out = tiles.area * side.area - kept_rows * kept_columns
    about = "{} x {} pixels, {} tiles; {:,} patches left out".format(*cut.place.canvas, tiles.area, left_out)
    return Panel(image, [counted, about])


def _placed(cut: Cut, place: Geometry, size: tuple[int, int], colour: object) -> Image.Image:
    """The picture where `place` puts it, on a canvas drawn `size` pixels large; only the part that shows is resampled."""
    area = Image.new("RGB", size, colour)  # pyright: ignore[reportArgumentType]
    source = cut.picture or _placeholder(cut.grid.size)
    target, window = [], []
    for axis in (0, 1):
        canvas, resized, offset = place.canvas[axis], place.resized[axis], place.offset[axis]
        shown = max(offset, 0), min(offset + resized, canvas)
        scale = size[axis] / canvas
        start = round(shown[0] * scale)
        target.append((start, max(round(shown[1] * scale), start + 1)))
        step = source.size[axis] / resized
        window.append((max(0.0, (shown[0] - offset) * step), min(float(source.size[axis]), (shown[1] - offset) * step)))
    (x0, x1), (y0, y1) = target
    box = (window[0][0], window[1][0], window[0][1], window[1][1])
    area.paste(source.resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, box=box), (x0, y0))
    return area


def _placeholder(size: tuple[int, int]) -> Image.Image:
    """A crossed frame in the ratio of a picture that is not there."""
    width, height = _fitted(size, 2 * PANEL)
    image = Image.new("RGB", (width, height), PLACEHOLDER)
    pen = ImageDraw.Draw(image)
    for line in ((0, 0, width - 1, height - 1), (0, height - 1, width - 1, 0)):
        pen.line(line, CROSS, 4)
    pen.rectangle((0, 0, width - 1, height - 1), outline=CROSS, width=6)
    return image


def _shade(image: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Darken and stripe a part of an RGBA picture, in place."""
    width, height = box[2] - box[0], box[3] - box[1]
    if width <= 0 or height <= 0:
        return
    band = Image.new("RGBA", (width, height), SHADE)
    pen = ImageDraw.Draw(band)
    for x in range(-height, width, 14):
        pen.line((x, height, x + height, 0), STRIPE, 2)
    image.alpha_composite(band, box[:2])


def _tag(pen: ImageDraw.ImageDraw, centre: tuple[int, int], text: str) -> None:
    """A word on a light plate, legible on any picture."""
    font = _font(TEXT)
    half = max(round(font.getlength(text)) // 2 + 9, 15)
    x, y = centre
    pen.rounded_rectangle((x - half, y - 15, x + half, y + 15), 9, fill=PAPER, outline=LINE, width=2)
    pen.text(centre, text, INK, font, anchor="mm")


def _fitted(size: tuple[int, int], longest: int = PANEL) -> tuple[int, int]:
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _font(pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(pixels)  # pyright: ignore[reportReturnType]
