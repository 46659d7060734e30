// The page: a list, one sample, histograms. What it shows comes from a server, or from blocks of this very file.

const PER_PAGE = 50;
const POLL = 400; // milliseconds between looks at a search or a count that goes on

const get = (identity) => document.getElementById(identity);

/** Asks the program that serves this page. */
const live = {
  async ask(page, fields) {
    const answer = await fetch(`${page}?${new URLSearchParams(fields || {})}`);
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error.message);
    return told;
  },
  about() { return this.ask("about").then((about) => { this.session = about.session; return about; }); },
  rows(query, start, count) { return this.ask("rows", { ...query, start, count }); },
  sample(number) { return this.ask("sample", { number }); },
  spreads() { return this.ask("spreads"); },
  source(sample, index, at) {
    const frames = sample.pictures[index].frames;
    return `picture?${new URLSearchParams({ number: sample.number, picture: index, frame: frames ? frames[at] : 0, v: this.session })}`;
  },
  async trouble(source) {
    const answer = await fetch(source);
    return answer.ok ? "the browser cannot show it" : (await answer.json()).error.message;
  },
};

/** Reads the blocks of a page that is one file. */
const embedded = {
  block(identity) { return JSON.parse(get(`data-${identity}`).textContent); },
  async about() { return this.block("about"); },
  async rows(query, start, count) {
    this.all = this.all || this.block("rows");
    const found = this.all.filter((row) => matches(row, query));
    return { rows: found.slice(start, start + count), total: found.length, done: this.all.length, of: this.all.length, finished: true };
  },
  async sample(number) {
    if (!get(`data-sample-${number}`)) throw new Error(`found no sample ${number}; samples are 0 to ${state.about.count - 1}`);
    return this.block(`sample-${number}`);
  },
  async spreads() { return this.block("spreads"); },
  source(sample, index, at) { return (sample.pictures[index].sources || [])[at] || ""; },
  async trouble() { return "the browser cannot show it"; },
};

/** What `view/search.py` asks of a row, for a page that has no server. */
function matches(row, query) {
  const pictures = row.pictures > 1 ? "many" : String(row.pictures);
  return (!query.text || row.text.toLowerCase().includes(query.text.toLowerCase()))
    && (!query.source || row.source === query.source)
    && (!query.pictures || pictures === query.pictures)
    && (!query.boxes || row.boxes > 0)
    && (!query.problem || row.problem !== null)
    && (!query.least || row.words >= Number(query.least))
    && (!query.most || row.words <= Number(query.most));
}

const data = get("data-rows") ? embedded : live;
const state = { about: null, query: {}, start: 0, rows: [], total: 0, number: null, sample: null, convention: "picture", asked: 0, wanted: 0 };

// The list

async function loadRows(select) {
  const asked = ++state.asked;
  let told;
  try {
    told = await data.rows(state.query, state.start, PER_PAGE);
  } catch (error) {
    if (asked === state.asked) get("status").textContent = error.message;
    return;
  }
  if (asked !== state.asked) return;
  const grown = told.rows.length !== state.rows.length || select;
  state.rows = told.rows;
  state.total = told.total;
  if (grown) showList();
  showStatus(told);
  if (select && state.rows.length) await choose(state.rows[select === "last" ? state.rows.length - 1 : 0].number);
  const waiting = !state.rows.length && !told.finished;
  if (!told.finished) setTimeout(() => { if (asked === state.asked) loadRows(waiting ? select : undefined); }, POLL);
}

function showStatus(told) {
  const filtered = Object.keys(state.query).length > 0;
  const places = state.rows.length ? `${commas(state.start + 1)}–${commas(state.start + state.rows.length)} of ${commas(told.total)}` : "none";
  get("page").textContent = places;
  get("status").textContent = !filtered ? `${commas(told.total)} samples`
    : told.finished ? `${commas(told.total)} of ${commas(told.of)} samples match`
      : `${commas(told.total)} found so far, ${commas(told.done)} of ${commas(told.of)} looked at…`;
  const bar = get("progress");
  bar.hidden = told.finished;
  bar.value = told.of ? told.done / told.of : 1;
  const atStart = state.start === 0;
  const atEnd = state.start + PER_PAGE >= told.total;
  for (const [name, off] of [["first", atStart], ["back", atStart], ["next", atEnd], ["last", atEnd]]) get(name).disabled = off;
}

function showList() {
  get("list").replaceChildren(...state.rows.map((row) => {
    const item = element("li");
    const button = element("button", "row", null, { type: "button", "data-number": row.number });
    if (row.problem) button.classList.add("wrong");
    const head = element("span", "head");
    head.append(element("b", "", `#${commas(row.number)}`), element("span", "id", row.id, { dir: "auto" }));
    button.append(head, element("span", "said", row.problem ? `${row.problem.reason}: ${row.problem.message}` : row.question || "(nothing asked)", { dir: "auto" }));
    if (!row.problem) button.append(element("span", "said answer", row.answer, { dir: "auto" }));
    const facts = [row.turns && `${row.turns} turns`, row.pictures && `${row.pictures} picture${row.pictures > 1 ? "s" : ""}`, row.boxes && `${row.boxes} box${row.boxes > 1 ? "es" : ""}`, row.words && `${commas(row.words)} words`, row.source !== "unnamed" && row.source];
    button.append(element("span", "facts", facts.filter(Boolean).join(" · ")));
    button.addEventListener("click", () => choose(row.number, true));
    item.append(button);
    return item;
  }));
  const known = new Set([...get("sources").options].map((option) => option.value));
  for (const row of state.rows) {
    if (row.source && row.source !== "unnamed" && !known.has(row.source) && known.size < 200) {
      known.add(row.source);
      get("sources").append(element("option", "", null, { value: row.source }));
    }
  }
  markChosen();
}

function markChosen() {
  for (const button of get("list").querySelectorAll("button")) {
    const chosen = Number(button.dataset.number) === state.number;
    if (chosen) {
      button.setAttribute("aria-current", "true");
      const list = get("list"), [box, frame] = [button.getBoundingClientRect(), list.getBoundingClientRect()];
      if (box.top < frame.top) list.scrollTop -= frame.top - box.top;
      else if (box.bottom > frame.bottom) list.scrollTop += box.bottom - frame.bottom;
    } else button.removeAttribute("aria-current");
  }
}

// One sample

async function choose(number, byHand) {
  const wanted = ++state.wanted;
  state.number = number;
  markChosen();
  let sample;
  try {
    sample = await data.sample(number);
  } catch (error) {
    if (wanted === state.wanted) get("detail").replaceChildren(problemCard({ reason: "no sample", message: error.message }));
    return;
  }
  if (wanted !== state.wanted) return;
  state.sample = sample;
  state.convention = sample.convention || "picture";
  history.replaceState(null, "", `#${number}`);
  showSample();
  get("detail").scrollTop = 0;
  if (byHand && matchMedia("(max-width: 860px)").matches) get("detail").scrollIntoView();
}

function problemCard(problem) {
  const card = element("div", "problem", null, { role: "note" });
  card.append(element("b", "", problem.reason), element("span", "", problem.message, { dir: "auto" }));
  return card;
}

function showSample() {
  const sample = state.sample;
  const head = element("header", "sample-head");
  head.append(element("h2", "", `#${commas(sample.number)}`), element("span", "id", sample.id, { dir: "auto" }));
  const parts = [head];
  if (sample.problem) parts.push(problemCard(sample.problem));
  if (sample.pictures.length) parts.push(picturesOf(sample));
  if (sample.turns.length) parts.push(conversationOf(sample));
  if (sample.tokens) parts.push(tokensOf(sample.tokens));
  if (sample.captions.length || sample.boxes.length || sample.text_boxes.length) parts.push(annotationsOf(sample));
  if (sample.tags.length) parts.push(tagsOf(sample.tags));
  get("detail").replaceChildren(...parts);
}

function section(title, className) {
  const made = element("section", `card ${className}`);
  made.append(element("h3", "", title));
  return made;
}

function picturesOf(sample) {
  const count = sample.pictures.length;
  const made = section(count > 1 ? `${count} pictures` : sample.pictures[0].clip ? "Clip" : "Picture", "pictures");
  const tools = element("div", "tools");
  if (sample.boxes.length) tools.append(toggle(made, "boxes", "hide-beside"));
  if (sample.text_boxes.length) tools.append(toggle(made, "boxes of the text", "hide-in-text"));
  if (sample.pictures.some((picture) => picture.cut && picture.cut.detail)) tools.append(toggle(made, "tiles", "hide-tiles"));
  if (sample.text_boxes.length) tools.append(conventionOf(sample));
  made.append(tools);
  sample.pictures.forEach((picture, index) => {
    made.append(element("p", "file muted", count > 1 ? `${index + 1}: ${picture.name}` : picture.name, { dir: "auto" }));
    if (picture.problem) { made.append(problemCard(picture.problem)); return; }
    const shown = picture.frames ? framesOf(sample, index) : panels(sample, index, data.source(sample, index, 0), state.convention);
    for (const image of shown.querySelectorAll("img")) image.addEventListener("error", async () => {
      const message = await data.trouble(image.getAttribute("src"));
      if (shown.isConnected) shown.replaceWith(problemCard({ reason: "picture", message }));
    });
    made.append(shown);
  });
  return made;
}

function framesOf(sample, index) {
  const picture = sample.pictures[index];
  const row = element("div", "panels");
  picture.frames.forEach((frame, at) => {
    const whole = { canvas: picture.size, resized: picture.size, offset: [0, 0] };
    const drawn = area(data.source(sample, index, at), `frame ${frame + 1} of clip ${index + 1}`, whole, 22, 240);
    row.append(figure(drawn, `Frame ${frame + 1}`, `of ${commas(picture.num_frames)}`));
  });
  return row;
}

function toggle(made, name, className) {
  const label = element("label", "tick");
  const box = element("input", "", null, { type: "checkbox" });
  box.checked = true;
  box.addEventListener("change", () => made.classList.toggle(className, !box.checked));
  label.append(box, ` ${name}`);
  return label;
}

/** What the numbers in the text are shares of: as the row states it, or as the person who looks tries it. */
function conventionOf(sample) {
  if (sample.convention) return element("span", "muted", `numbers in the text: shares of the ${sample.convention === "padded" ? "padded square" : "picture"}, as the row states`);
  const label = element("label", "", "numbers in the text, not stated by the row: shares of ");
  const choice = element("select", "", null, { id: "convention" });
  for (const [value, name] of [["picture", "the picture"], ["padded", "the padded square"]]) choice.append(element("option", "", name, { value }));
  choice.value = state.convention;
  choice.addEventListener("change", () => { state.convention = choice.value; showSample(); get("convention").focus(); });
  label.append(choice);
  return label;
}

function conversationOf(sample) {
  const made = section("Conversation", "conversation");
  if (sample.system !== null) made.append(turnOf("system", [sample.system], [], false));
  const kept = sample.turns.length - (sample.tokens ? sample.tokens.dropped_turns : 0);
  sample.turns.forEach((turn, number) => {
    const boxes = sample.text_boxes.map((box, at) => ({ ...box, at })).filter((box) => box.turn === number);
    made.append(turnOf(turn.role, turn.parts, boxes, number >= kept));
  });
  return made;
}

function turnOf(role, parts, boxes, cut) {
  const made = element("div", `turn ${role}`);
  const who = element("span", "role", role);
  if (cut) { made.classList.add("cut"); who.append(element("span", "badge", "left out: max_length")); }
  const body = element("div", "body", null, { dir: "auto" });
  let before = 0; // letters of the turn's text, as Python counts them
  for (const part of parts) {
    if (typeof part === "number") { body.append(element("span", "chip", `picture ${part + 1}`)); continue; }
    const letters = boxes.length ? Array.from(part) : [part];
    const length = boxes.length ? letters.length : 0;
    let at = 0;
    for (const box of boxes) {
      if (box.start < before || box.end > before + length) continue;
      body.append(letters.slice(at, box.start - before).join(""));
      const mark = element("mark", `${colourOf(String(box.at))}${box.problem ? " wrong" : ""}`, letters.slice(box.start - before, box.end - before).join(""), { "data-key": `text-${box.at}`, title: box.problem ? `box ${box.at + 1} ${box.problem}` : `box ${box.at + 1}` });
      body.append(mark);
      at = box.end - before;
    }
    body.append(letters.slice(at).join(""));
    before += length;
  }
  made.append(who, body);
  return made;
}

function tokensOf(tokens) {
  const made = section("Tokens", "tokens");
  if (tokens.status !== "ok") made.append(problemCard({ reason: tokens.status, message: tokens.message }));
  else {
    const share = (100 * tokens.targets / Math.max(1, tokens.length)).toFixed(1);
    const tiles = element("div", "counts");
    for (const [name, value] of [["positions", tokens.length], [`of at most`, tokens.max_length], ["text tokens", tokens.text], ["visual rows", tokens.visual], ["newlines", tokens.newlines], [`learnt, ${share} %`, tokens.targets]]) {
      const tile = element("span", "count");
      tile.append(element("b", "", commas(value)), element("span", "muted", name));
      tiles.append(tile);
    }
    made.append(tiles);
    const bar = element("div", "bar-of", null, { role: "img", "aria-label": `${tokens.targets} learnt, ${tokens.text - tokens.targets} read, ${tokens.visual} visual rows, ${tokens.newlines} newlines` });
    for (const [name, value] of [["learnt", tokens.targets], ["read", tokens.text - tokens.targets], ["visual", tokens.visual], ["newline", tokens.newlines]]) {
      const part = element("span", name, null, { title: `${name}: ${commas(value)}` });
      part.style.flexGrow = String(value);
      if (value) bar.append(part);
    }
    made.append(bar);
  }
  if (tokens.dropped_turns) made.append(element("p", "bad", `max_length ${commas(tokens.max_length)} leaves out ${tokens.dropped_turns} turns: the whole takes ${commas(tokens.whole_length)} positions`));
  if (!tokens.pieces.length) return made;
  const legend = element("p", "token-legend");
  legend.append(element("span", "token learnt", "learnt"), element("span", "token", "only read"), element("span", "token place", "picture"));
  if (tokens.pieces.some((piece) => piece[2])) legend.append(element("span", "token left-out", "left out"));
  const text = element("div", "token-text", null, { tabindex: "0", "aria-label": "tokens" });
  for (const [word, kind, out] of tokens.pieces) {
    text.append(element("span", `token${["", " learnt", " place"][kind]}${out ? " left-out" : ""}`, word));
    if (word.endsWith("⏎")) text.append(element("br"));
  }
  made.append(legend, text);
  return made;
}

function annotationsOf(sample) {
  const made = section("Annotations", "annotations");
  if (sample.captions.length) {
    const list = element("ul", "captions");
    for (const caption of sample.captions) list.append(element("li", "", caption, { dir: "auto" }));
    made.append(list);
  }
  const boxes = [
    ...sample.boxes.map((box, at) => [box.label, box.box, box.problem, "beside the text", `beside-${at}`]),
    ...sample.text_boxes.map((box, at) => [`turn ${box.turn}, box ${at + 1}`, box[state.convention], box.problem, "in the text", `text-${at}`]),
  ];
  if (boxes.length) {
    const holder = element("div", "scroll");
    const table = element("table", "box-table");
    const head = element("tr");
    for (const name of ["box", "left", "top", "right", "bottom", "stands"]) head.append(element("th", "", name, { scope: "col" }));
    table.append(head);
    for (const [label, numbers, problem, where, key] of boxes) {
      const line = element("tr", problem ? "bad" : "", null, { "data-key": key });
      line.append(element("td", "wrap", label, { dir: "auto" }));
      for (let at = 0; at < 4; at += 1) line.append(element("td", "", numbers ? numbers[at].toFixed(3) : "–"));
      line.append(element("td", "wrap", problem || where));
      table.append(line);
    }
    holder.append(table);
    made.append(holder);
  }
  return made;
}

function tagsOf(tags) {
  const made = section("Tags", "tags");
  const list = element("dl");
  for (const [name, value] of tags) {
    const told = element("dd", "", value, { dir: "auto" });
    if (name === "source") {
      const only = element("button", "plain", "only this source", { type: "button" });
      only.addEventListener("click", () => filterBySource(value));
      told.append(" ", only);
    }
    list.append(element("dt", "", name, { dir: "auto" }), told);
  }
  made.append(list);
  return made;
}

// Histograms

async function showSpreads() {
  if (get("spreads").hidden) return;
  let told;
  try {
    told = await data.spreads();
  } catch (error) {
    get("spreads").replaceChildren(problemCard({ reason: "histograms", message: error.message }));
    return;
  }
  const counted = told.finished ? "" : ` ${commas(told.done)} are counted so far…`;
  const which = told.rows === told.of ? `All ${commas(told.of)} samples.` : `${commas(told.rows)} of ${commas(told.of)} samples, spread evenly.`;
  const bad = told.unreadable ? ` ${commas(told.unreadable)} of them cannot be read.` : "";
  const grid = element("div", "charts");
  grid.append(sourcesOf(told), ...told.charts.map((chart) => {
    const card = element("figure", "card chart");
    card.append(element("h3", "", chart.title));
    const holder = element("div");
    holder.innerHTML = chart.svg; // made by our own code of numbers alone
    card.append(holder);
    return card;
  }));
  get("spreads").replaceChildren(element("p", "muted", which + counted + bad, { role: "status" }), grid);
  if (!told.finished) setTimeout(showSpreads, 2 * POLL);
}

function sourcesOf(told) {
  const card = element("div", "card chart sources");
  card.append(element("h3", "", "Sources"));
  const most = Math.max(1, ...told.sources.map((pair) => pair[1]));
  for (const [name, count] of told.sources) {
    const line = element("button", "source", null, { type: "button", title: `show ${name} only` });
    const bar = element("span", "source-bar");
    bar.style.width = `${100 * count / most}%`;
    line.append(element("span", "source-name", name, { dir: "auto" }), element("span", "source-count", commas(count)), bar);
    line.addEventListener("click", () => { openTab("samples"); filterBySource(name); });
    card.append(line);
  }
  if (told.rarer[0]) card.append(element("p", "muted", `and ${commas(told.rarer[0])} rarer ones with ${commas(told.rarer[1])} samples`));
  return card;
}

// What people do

function openTab(name) {
  for (const tab of ["samples", "spreads"]) {
    get(tab).hidden = tab !== name;
    get(`tab-${tab}`).setAttribute("aria-selected", String(tab === name));
    get(`tab-${tab}`).tabIndex = tab === name ? 0 : -1;
  }
  if (name === "spreads") showSpreads();
}

function filterBySource(name) {
  get("filters").reset();
  get("source").value = name;
  applyFilters();
}

function applyFilters() {
  const query = {};
  for (const [name, value] of new FormData(get("filters"))) if (value.trim()) query[name] = name === "text" || name === "source" ? value : value.trim();
  state.query = query;
  state.start = 0;
  state.rows = [];
  loadRows("first");
}

function turnPage(start, select) {
  const last = Math.max(0, Math.floor((state.total - 1) / PER_PAGE) * PER_PAGE);
  const wanted = Math.min(Math.max(0, start), last);
  if (wanted === state.start) return;
  state.start = wanted;
  loadRows(select || "first");
}

function step(by) {
  const at = state.rows.findIndex((row) => row.number === state.number);
  const next = state.rows[at + by];
  if (next) choose(next.number);
  else if (by > 0 && state.start + PER_PAGE < state.total) turnPage(state.start + PER_PAGE);
  else if (by < 0 && at === 0 && state.start > 0) turnPage(state.start - PER_PAGE, "last");
}

async function jumpTo(number) {
  if (!Number.isSafeInteger(number) || number < 0 || number >= state.about.count) {
    get("status").textContent = `found no sample ${number}; samples are 0 to ${commas(state.about.count - 1)}`;
    return;
  }
  if (Object.keys(state.query).length) get("filters").reset();
  state.query = {};
  state.start = Math.floor(number / PER_PAGE) * PER_PAGE;
  const asked = loadRows();
  await choose(number, true);
  await asked;
  markChosen();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || get("samples").hidden) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const actions = {
    ArrowDown: () => step(1), j: () => step(1), ArrowUp: () => step(-1), k: () => step(-1),
    ArrowRight: () => turnPage(state.start + PER_PAGE), ArrowLeft: () => turnPage(state.start - PER_PAGE),
    "/": () => get("text").focus(), g: () => get("number").focus(),
  };
  if (event.target.closest(".token-text, [role=tab]") && event.key.startsWith("Arrow")) return;
  if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
}

/** A box lights up with its line and its place in the text. */
function onPoint(event) {
  const key = event.target.closest && event.target.closest("[data-key]");
  for (const lit of document.querySelectorAll(".lit")) lit.classList.remove("lit");
  if (key) for (const same of document.querySelectorAll(`[data-key="${CSS.escape(key.dataset.key)}"]`)) same.classList.add("lit");
}

async function begin() {
  state.about = await data.about();
  const about = state.about;
  get("about").textContent = `${commas(about.count)} samples${about.recipe ? ` · as ${about.recipe} sees them` : ""}`;
  get("note").textContent = about.note;
  get("note").hidden = !about.note;
  get("tab-samples").addEventListener("click", () => openTab("samples"));
  get("tab-spreads").addEventListener("click", () => openTab("spreads"));
  for (const [tab, other] of [["samples", "spreads"], ["spreads", "samples"]]) {
    get(`tab-${tab}`).addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") { openTab(other); get(`tab-${other}`).focus(); }
    });
  }
  get("filters").addEventListener("submit", (event) => { event.preventDefault(); applyFilters(); });
  get("filters").addEventListener("change", applyFilters);
  get("filters").addEventListener("reset", () => setTimeout(() => { if (Object.keys(state.query).length) applyFilters(); }));
  let typing;
  get("text").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(applyFilters, 250); });
  get("jump").addEventListener("submit", (event) => { event.preventDefault(); const text = get("number").value.trim(); if (text) jumpTo(Number(text)); });
  get("first").addEventListener("click", () => turnPage(0));
  get("back").addEventListener("click", () => turnPage(state.start - PER_PAGE));
  get("next").addEventListener("click", () => turnPage(state.start + PER_PAGE));
  get("last").addEventListener("click", () => turnPage(state.total));
  addEventListener("keydown", onKey);
  addEventListener("pointerover", onPoint);
  addEventListener("hashchange", () => { const number = Number(location.hash.slice(1)); if (location.hash.length > 1 && number !== state.number) jumpTo(number); });
  const asked = /^#\d{1,12}$/.test(location.hash) ? Number(location.hash.slice(1)) : null;
  if (asked !== null && asked < about.count) await jumpTo(asked);
  else await loadRows("first");
}

begin().catch((error) => { get("status").textContent = error.message; throw error; });
