"use strict";
// Pictures with what lies over them: boxes, tiles, padding. Places are shares of the drawn area, so they hold at any size.

/** A new element. Text goes in as text, never as markup. */
function element(name, className, text, attributes) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  return made;
}

function commas(number) { return number.toLocaleString("en-GB"); }

// Shapes beyond this are drawn less thin than they are; else nothing could be seen of them.
const MOST_RATIO = 24;
// Colours of boxes; the style sheet has as many.
const BOX_COLOURS = 8;

/** An area of a canvas (width, height) with the picture where `place` puts it; `height`: its most, in shares of the window. */
function area(source, alt, place, height, most) {
  const [width, tall] = place.canvas;
  const ratio = Math.min(MOST_RATIO, Math.max(1 / MOST_RATIO, width / tall));
  const frame = element("div", "area");
  frame.style.aspectRatio = String(ratio);
  frame.style.width = `min(100%, ${(height * ratio).toFixed(3)}vh, ${most}px)`;
  const picture = element("img", "", null, { src: source, alt });
  const set = (name, part, whole) => { picture.style[name] = `${100 * part / whole}%`; };
  set("left", place.offset[0], width);
  set("top", place.offset[1], tall);
  set("width", place.resized[0], width);
  set("height", place.resized[1], tall);
  if (Math.max(place.resized[0], place.resized[1]) < 200) picture.classList.add("coarse");
  frame.append(picture);
  return frame;
}

/** A share of the picture as a share of the area. */
function placed(share, axis, place) {
  return (place.offset[axis] + share * place.resized[axis]) / place.canvas[axis];
}

function drawBox(frame, place, numbers, label, className, key) {
  const [left, top, right, bottom] = numbers.map((share, at) => placed(share, at % 2, place));
  const box = element("div", `box ${className}`, null, { "data-key": key, title: label });
  box.style.left = `${100 * left}%`;
  box.style.top = `${100 * top}%`;
  box.style.width = `${100 * (right - left)}%`;
  box.style.height = `${100 * (bottom - top)}%`;
  const name = element("span", "name", label, { dir: "auto" });
  if (left > 0.6) name.classList.add("right");
  if (className.startsWith("in-text") ? bottom > 0.92 : top < 0.08) name.classList.add("inside");
  box.append(name);
  frame.append(box);
}

function drawLine(frame, axis, share) {
  const line = element("div", axis ? "line-y" : "line-x");
  line.style[axis ? "top" : "left"] = `${100 * share}%`;
  frame.append(line);
}

/** Lines between the tiles of the canvas, and their numbers; within an area that shows it by `place`. */
function drawTiles(frame, cut, place) {
  const [across, down] = cut.tiles;
  // From a share of the canvas to a share of the area: by way of the picture.
  const to = (share, axis) => placed((share * cut.canvas[axis] - cut.offset[axis]) / cut.resized[axis], axis, place);
  const layer = element("div", "tiles-layer");
  for (let column = 1; column < across; column += 1) drawLine(layer, 0, to(column / across, 0));
  for (let row = 1; row < down; row += 1) drawLine(layer, 1, to(row / down, 1));
  for (let tile = 0; tile < across * down; tile += 1) {
    const tag = element("span", "tile-number", String(tile + 1));
    const middle = [(tile % across + 0.5) / across, (Math.floor(tile / across) + 0.5) / down];
    const clamped = middle.map((share, axis) => Math.min(0.97, Math.max(0.03, to(share, axis))));
    tag.style.left = `${100 * clamped[0]}%`;
    tag.style.top = `${100 * clamped[1]}%`;
    layer.append(tag);
  }
  frame.append(layer);
}

/** A hatch over the parts of the canvas whose rows are left out. */
function drawBands(frame, kept) {
  const [left, top, right, bottom] = kept;
  for (const [x0, y0, x1, y1] of [[0, 0, 1, top], [0, bottom, 1, 1], [0, top, left, bottom], [right, top, 1, bottom]]) {
    if (x1 - x0 <= 0 || y1 - y0 <= 0) continue;
    const band = element("div", "band");
    band.style.left = `${100 * x0}%`;
    band.style.top = `${100 * y0}%`;
    band.style.width = `${100 * (x1 - x0)}%`;
    band.style.height = `${100 * (y1 - y0)}%`;
    frame.append(band);
  }
}

function colourOf(label) {
  let hash = 7;
  for (const letter of label) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  return `colour-${hash % BOX_COLOURS}`;
}

/** All boxes of the sample into an area; those of the text are counted by `convention`. */
function drawBoxes(frame, place, sample, convention) {
  sample.boxes.forEach((box, number) => {
    if (box.box) drawBox(frame, place, box.box, box.label, `beside ${colourOf(box.label)}`, `beside-${number}`);
  });
  sample.text_boxes.forEach((box, number) => {
    const numbers = box[convention];
    if (numbers) drawBox(frame, place, numbers, `turn ${box.turn}, box ${number + 1}`, `in-text ${colourOf(String(number))}`, `text-${number}`);
  });
}

function figure(frame, title, about) {
  const made = element("figure", "panel");
  made.style.width = frame.style.width; // so that the words below wrap instead of making it wider
  const caption = element("figcaption");
  caption.append(element("b", "", title), element("span", "muted", about));
  made.append(frame, caption);
  return made;
}

/** The panels of one picture: as it is, its overview tile, its canvas of tiles. */
function panels(sample, index, source, convention) {
  const picture = sample.pictures[index];
  const [width, height] = picture.size;
  const whole = { canvas: picture.size, resized: picture.size, offset: [0, 0] };
  const first = index === 0;
  const cut = picture.cut;
  const row = element("div", "panels");
  const name = `picture ${index + 1} of sample ${sample.id}`;
  // A small picture may be drawn eight times as large as it is, so that its boxes can be told apart.
  const frame = area(source, name, whole, 62, Math.max(240, 8 * width));
  frame.classList.add("whole");
  const thin = Math.max(width / height, height / width) > MOST_RATIO;
  if (cut && cut.detail && !thin) drawTiles(frame, cut, whole);
  if (first) drawBoxes(frame, whole, sample, convention);
  const stretched = thin ? "; drawn less thin than it is" : "";
  row.append(figure(frame, "Picture", `${commas(width)} × ${commas(height)} pixels${stretched}`));
  if (!cut) return row;
  const small = area(source, `${name}: overview tile`, cut.overview, cut.detail ? 32 : 46, 420);
  small.classList.add("overview", `mode-${cut.mode}`);
  if (first) drawBoxes(small, cut.overview, sample, convention);
  row.append(figure(small, `Overview: ${commas(cut.overview.rows)} rows`, `${cut.overview.canvas.join(" × ")} pixels, ${cut.mode}`));
  if (!cut.detail) return row;
  const canvas = area(source, `${name}: canvas of tiles`, cut, 52, 620);
  canvas.classList.add("canvas");
  drawBands(canvas, cut.kept);
  drawTiles(canvas, cut, cut);
  if (first) drawBoxes(canvas, cut, sample, convention);
  const lines = cut.shrunk || cut.kept_lines;
  const newline = cut.merge === "spatial_unpad" ? `(${lines[1]} + newline)` : lines[1];
  const shrunk = cut.shrunk ? `, shrunk from ${cut.kept_lines.join(" × ")}` : "";
  const count = cut.rows - cut.overview.rows;
  row.append(figure(canvas, `Canvas: ${lines[0]} × ${newline} = ${commas(count)} rows`,
    `${cut.canvas.join(" × ")} pixels, ${cut.tiles[0]} × ${cut.tiles[1]} tiles${shrunk}`));
  return row;
}
