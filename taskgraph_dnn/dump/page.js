"use strict";
// The graph is drawn on a canvas, on which only what can be seen is drawn: 20,000 nodes stay fluid.
// World coordinates are pixels at a scale of 1; `camera` says which of them is the canvas's upper left corner.

const STEP_X = 104, STEP_Y = 64, WIDTH = 72, HEIGHT = 38, BAND = 8, MARGIN = 40;
const ROOM = WIDTH - 6; // for words
const LETTER = 8; // as wide as letters are, or wider
const CLOSEST = 4, FARTHEST = 0.04;
const READABLE = 0.9; // where the whole is too small to be read, its beginning is shown
const LINES_FROM = 0.12, WORDS_FROM = 0.4, KERNELS_FROM = 0.85, SMALLEST_WORDS = 10, ITEMS_SHOWN = 40;
const COLOURS = ["kind", "layer", "worker", "seconds", "density", "kernel", "samples", "nnz", "nbytes", "partition"];
const TITLES = { seconds: "duration", nbytes: "bytes" };
const HUES = [140, 210, 35, 270, 350, 180, 60, 315, 95, 240];

const part = (id) => document.getElementById(id);
const canvas = part("graph"), pen = canvas.getContext("2d");
const dark = matchMedia("(prefers-color-scheme: dark)");

// ---- the graph

const graph = JSON.parse(part("data").textContent);
const nodes = graph.nodes.map(([name, column, row, ...values], index) => ({
  index, name, column, row, sources: [], targets: [],
  known: graph.attributes.map((key, at) => [key, values[at]]).filter(([, value]) => value !== null),
  get: (key) => values[graph.attributes.indexOf(key)] ?? null,
}));
for (const [source, target] of graph.edges) {
  nodes[source].targets.push(nodes[target]);
  nodes[target].sources.push(nodes[source]);
}
const grid = Array.from({ length: graph.columns.length }, () => Array(graph.rows.length).fill(null));
for (const node of nodes) grid[node.column][node.row] = node;
const leaps = nodes.filter((node) => node.targets.some((target) => target.column - node.column > 1));
const world = {
  left: -16 - LETTER * graph.rows.reduce((most, label) => Math.max(most, Math.min(24, label.length)), 0),
  right: graph.columns.length * STEP_X - (STEP_X - WIDTH),
  bottom: Math.max(1, graph.rows.length) * STEP_Y - (STEP_Y - HEIGHT),
};

// ---- what is shown

const camera = { x: 0, y: 0, scale: 1 };
const size = { width: 0, height: 0 };
let selected = null, matches = [], matching = null, at = -1;
let fills = [], theme = {};

const between = (low, value, high) => Math.max(low, Math.min(high, value));
const left = (node) => node.column * STEP_X, top_ = (node) => node.row * STEP_Y;

function wholeScale() {
  return Math.min((size.width - MARGIN) / (world.right - world.left), (size.height - MARGIN) / world.bottom, 1);
}

function show(scale) {
  camera.scale = scale;
  const side = (length, room) => Math.max(room / camera.scale - length, MARGIN / camera.scale) / 2;
  camera.x = world.left - side(world.right - world.left, size.width);
  camera.y = -side(world.bottom, size.height);
  draw();
}

const showWhole = () => show(wholeScale());

function zoom(factor, x = size.width / 2, y = size.height / 2) {
  const scale = between(Math.min(wholeScale(), FARTHEST), camera.scale * factor, CLOSEST);
  camera.x += x / camera.scale - x / scale;
  camera.y += y / camera.scale - y / scale;
  camera.scale = scale;
  draw();
}

function pan(x, y) {
  camera.x -= x / camera.scale;
  camera.y -= y / camera.scale;
  draw();
}

function centre(node) {
  camera.scale = Math.max(camera.scale, 0.8);
  camera.x = left(node) + WIDTH / 2 - size.width / 2 / camera.scale;
  camera.y = top_(node) + HEIGHT / 2 - size.height / 2 / camera.scale;
  draw();
}

/** Move as little as it takes to have the node in sight. */
function reveal(node) {
  const room = 16 / camera.scale, right = size.width / camera.scale, bottom = size.height / camera.scale;
  camera.x = between(left(node) + WIDTH + room - right, camera.x, left(node) - room);
  camera.y = between(top_(node) + HEIGHT + room - bottom, camera.y, top_(node) - room);
  draw();
}

// ---- colours

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const names = ["paper", "ink", "band", "edge", "blank", "accent"];
  theme = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

const category = (number) => {
  const lightness = (dark.matches ? 30 : 85) - 8 * (Math.floor(number / HUES.length) % 3);
  return { fill: `hsl(${HUES[number % HUES.length]} 50% ${lightness}%)`, ink: dark.matches ? "#ffffff" : "#111111" };
};

const ramp = (share) => {
  const lightness = dark.matches ? 20 + 55 * share : 94 - 60 * share;
  return { fill: `hsl(${200 + 55 * share} 60% ${lightness}%)`, ink: lightness > 55 ? "#111111" : "#ffffff" };
};

function colour() {
  const key = part("colour").value, values = nodes.map((node) => node.get(key));
  const known = [...new Set(values)].filter((value) => value !== null);
  const blank = { fill: theme.blank, ink: theme.ink };
  const legend = part("legend");
  legend.replaceChildren();
  if (key === "worker" || typeof known[0] === "string") {
    const pens = new Map(known.map((value, number) => [value, category(number)]));
    fills = values.map((value) => pens.get(value) ?? blank);
    const shown = known.slice(0, ITEMS_SHOWN);
    legend.append(...shown.map((value) => swatch(pens.get(value).fill, key === "worker" ? `worker ${value}` : value)));
    legend.append(rest(known));
  } else {
    const low = known.reduce((a, b) => Math.min(a, b), Infinity), high = known.reduce((a, b) => Math.max(a, b), -Infinity);
    const share = (value) => (high > low ? (value - low) / (high - low) : 0.5);
    fills = values.map((value) => (value === null ? blank : ramp(Math.round(32 * share(value)) / 32)));
    if (known.length) legend.append(rampLegend(key, low, high));
  }
  if (values.includes(null)) legend.append(swatch(blank.fill, "none"));
  draw();
}

function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const rest = (list) => (list.length > ITEMS_SHOWN ? `and ${(list.length - ITEMS_SHOWN).toLocaleString("en")} more` : "");

function swatch(fill, text) {
  const box = made("span", { className: "swatch" });
  box.style.background = fill;
  return made("span", {}, box, text);
}

function rampLegend(key, low, high) {
  const bar = made("span", { className: "ramp" });
  bar.style.background = `linear-gradient(to right, ${[0, 0.25, 0.5, 0.75, 1].map((share) => ramp(share).fill)})`;
  const legend = made("span", {}, `${TITLES[key] ?? key} ${shown(key, low)} `, bar, ` ${shown(key, high)}`);
  legend.style.cssText = "display: inline-flex; gap: 8px; align-items: center";
  return legend;
}

// ---- drawing

let waiting = false;

function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; paint(); });
}

function paint() {
  const ratio = devicePixelRatio, { scale } = camera;
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.fillStyle = theme.paper;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.setTransform(ratio * scale, 0, 0, ratio * scale, -ratio * scale * camera.x, -ratio * scale * camera.y);
  const columns = seen(camera.x, size.width, STEP_X, graph.columns.length);
  const rows = seen(camera.y, size.height, STEP_Y, graph.rows.length);
  const visible = [];
  for (let column = columns[0]; column < columns[1]; column++)
    for (let row = rows[0]; row < rows[1]; row++)
      if (grid[column][row]) visible.push(grid[column][row]);
  if (scale >= LINES_FROM) {
    paintBands(visible);
    paintEdges(columns);
  }
  for (const node of visible) paintBox(node);
  if (scale >= WORDS_FROM) {
    for (const node of visible) paintWords(node);
    paintRowLabels(rows);
  }
  if (selected) paintSelection();
}

function seen(from, length, step, count) {
  return [between(0, Math.floor(from / step), count), between(0, Math.ceil((from + length / camera.scale) / step), count)];
}

function paintBands(visible) {
  pen.fillStyle = theme.band;
  for (const node of visible) {
    const span = node.get("span");
    if (span === null) continue;
    const next = grid[node.column + 1]?.[node.row];
    const width = next && next.get("span") === span ? STEP_X : WIDTH + BAND;
    pen.fillRect(left(node) - BAND, top_(node) - BAND, width + BAND, HEIGHT + 2 * BAND);
  }
}

function paintEdges([first, stop]) {
  pen.strokeStyle = theme.edge;
  pen.lineWidth = Math.max(1.2, 0.6 / camera.scale);
  pen.beginPath();
  for (let column = Math.max(0, first - 1); column < stop; column++)
    for (const node of grid[column])
      for (const target of node?.targets ?? []) if (target.column - column <= 1) traceEdge(node, target);
  for (const node of leaps) for (const target of node.targets) if (target.column - node.column > 1) traceEdge(node, target);
  pen.stroke();
}

function traceEdge(source, target) {
  const x = left(source) + WIDTH, y = top_(source) + HEIGHT / 2, toX = left(target), toY = top_(target) + HEIGHT / 2;
  if (Math.max(y, toY) < camera.y - STEP_Y || Math.min(y, toY) > camera.y + size.height / camera.scale + STEP_Y) return;
  pen.moveTo(x, y);
  if (source.column === target.column) {
    pen.bezierCurveTo(x + 24, y, x + 24, toY, toX + WIDTH, toY);
  } else if (toX - x > STEP_X) {
    pen.bezierCurveTo(x + 20, y - STEP_Y * 0.6, toX - 20, toY - STEP_Y * 0.6, toX, toY);
  } else {
    pen.lineTo(toX, toY);
    const angle = Math.atan2(toY - y, toX - x), side = 0.45;
    for (const turn of [-side, side]) {
      pen.moveTo(toX, toY);
      pen.lineTo(toX - 7 * Math.cos(angle + turn), toY - 7 * Math.sin(angle + turn));
    }
  }
}

function paintBox(node) {
  const { scale } = camera, ratio = devicePixelRatio;
  pen.globalAlpha = matching && !matching.has(node) ? 0.25 : 1;
  pen.fillStyle = fills[node.index].fill;
  pen.fillRect(left(node), top_(node), Math.max(WIDTH, 1 / scale / ratio), Math.max(HEIGHT, 1 / scale / ratio));
  if (scale >= LINES_FROM) {
    pen.strokeStyle = theme.edge;
    pen.lineWidth = 1;
    pen.strokeRect(left(node), top_(node), WIDTH, HEIGHT);
  }
  pen.globalAlpha = 1;
}

function paintWords(node) {
  pen.globalAlpha = matching && !matching.has(node) ? 0.35 : 1;
  pen.fillStyle = fills[node.index].ink;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  const middle = left(node) + WIDTH / 2, label = graph.columns[node.column];
  const kernel = camera.scale >= KERNELS_FROM && node.get("kernel");
  pen.font = wordsFont();
  const fitting = pen.measureText(label).width < ROOM ? label : label.split(" ").at(-1); // the numbers alone
  pen.fillText(cut(fitting), middle, top_(node) + (kernel ? 13 : 20), ROOM);
  if (kernel) {
    pen.font = "10.5px system-ui, sans-serif";
    pen.fillText(cut(kernel), middle, top_(node) + 27, ROOM);
  }
  pen.globalAlpha = 1;
}

const wordsFont = () => `${Math.max(12, SMALLEST_WORDS / camera.scale)}px system-ui, sans-serif`;

function paintRowLabels([first, stop]) {
  pen.fillStyle = theme.ink;
  pen.textAlign = "right";
  pen.font = wordsFont();
  for (let row = first; row < stop; row++) pen.fillText(graph.rows[row].slice(0, 24), -16, row * STEP_Y + HEIGHT / 2);
}

/** Shorten a text until it fits, if set a little narrower. */
function cut(text) {
  while (text.length > 1 && pen.measureText(text).width > 1.2 * ROOM) text = `${text.replace(/…$/, "").slice(0, -1)}…`;
  return text;
}

function paintSelection() {
  pen.strokeStyle = theme.accent;
  pen.lineWidth = 3 / Math.min(1, camera.scale);
  pen.strokeRect(left(selected) - 2, top_(selected) - 2, WIDTH + 4, HEIGHT + 4);
}

// ---- one node

function select(node) {
  selected = node;
  part("details").hidden = !node;
  if (node) {
    part("name").textContent = node.name;
    const rows = node.known.flatMap(([key, value]) => [
      made("dt", { textContent: TITLES[key] ?? key }), made("dd", { textContent: shown(key, value) }),
    ]);
    part("known").replaceChildren(...rows);
    showLinks(part("sources"), node.sources);
    showLinks(part("targets"), node.targets);
  }
  draw();
}

function showLinks(place, others) {
  const link = (other) => made("button", { type: "button", textContent: other.name, onclick: () => { select(other); reveal(other); } });
  place.replaceChildren(...others.slice(0, ITEMS_SHOWN).map(link));
  if (!others.length) place.append("nothing");
  place.append(rest(others));
}

function shown(key, value) {
  if (typeof value !== "number") return String(value);
  if (key === "seconds") {
    const [unit, name] = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]].find(([unit]) => value >= unit) ?? [1e-9, "ns"];
    return `${+(value / unit).toPrecision(4)} ${name}`;
  }
  if (key === "density") return `${+(100 * value).toPrecision(4)} %`;
  if (key === "nbytes" && value >= 1024) {
    const power = Math.min(4, Math.floor(Math.log2(value) / 10));
    return `${+(value / 1024 ** power).toPrecision(4)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
  }
  return value.toLocaleString("en");
}

// ---- search

let texts = null;

function search() {
  const query = part("query").value.trim().toLowerCase();
  texts ??= nodes.map((node) => [node.name, ...node.known.map(([key, value]) => `${key}=${value}`)].join("\n").toLowerCase());
  matches = query ? nodes.filter((node) => texts[node.index].includes(query)) : [];
  matches.sort((a, b) => (b.name.toLowerCase() === query) - (a.name.toLowerCase() === query)); // stable: else as drawn
  matching = query ? new Set(matches) : null;
  at = -1;
  part("found").textContent = query ? `${matches.length.toLocaleString("en")} found` : "";
  draw();
}

function step(by) {
  if (!matches.length) return;
  at = at < 0 ? (by > 0 ? 0 : matches.length - 1) : (at + by + matches.length) % matches.length;
  part("found").textContent = `${(at + 1).toLocaleString("en")} of ${matches.length.toLocaleString("en")}`;
  select(matches[at]);
  centre(matches[at]);
}

part("query").addEventListener("input", search);
part("query").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  step(event.shiftKey ? -1 : 1);
});
part("search").addEventListener("submit", (event) => event.preventDefault());

// ---- mouse, fingers, keys

const fingers = new Map();
let travelled = 0;

function nodeAt(x, y) {
  const worldX = camera.x + x / camera.scale, worldY = camera.y + y / camera.scale;
  const node = grid[Math.floor(worldX / STEP_X)]?.[Math.floor(worldY / STEP_Y)] ?? null;
  return node && worldX - left(node) <= WIDTH && worldY - top_(node) <= HEIGHT ? node : null;
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  if (!fingers.size) travelled = 0;
  fingers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
});
canvas.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const now = { x: event.offsetX, y: event.offsetY };
  travelled += Math.hypot(now.x - before.x, now.y - before.y);
  const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
  if (other) {
    const apart = (finger) => Math.max(1, Math.hypot(finger.x - other.x, finger.y - other.y));
    zoom(apart(now) / apart(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
  }
  pan((now.x - before.x) / fingers.size, (now.y - before.y) / fingers.size);
  fingers.set(event.pointerId, now);
});
canvas.addEventListener("pointerup", (event) => {
  if (fingers.size === 1 && travelled < 5) select(nodeAt(event.offsetX, event.offsetY));
  fingers.delete(event.pointerId);
});
canvas.addEventListener("pointercancel", (event) => fingers.delete(event.pointerId));
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.offsetX, event.offsetY);
}, { passive: false });

const beside = (node, by) => grid[node.column].filter(Boolean).find((other) => other.row === node.row + by);
const NEXT = {
  ArrowRight: (node) => node.targets[0], ArrowLeft: (node) => node.sources[0],
  ArrowDown: (node) => beside(node, 1), ArrowUp: (node) => beside(node, -1),
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") select(null);
  if (event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "SELECT"].includes(event.target.tagName)) return;
  const act = { "+": () => zoom(1.3), "-": () => zoom(1 / 1.3), "0": showWhole, "/": () => part("query").focus() }[event.key];
  const next = event.target === canvas && NEXT[event.key];
  if (act) act();
  else if (next) {
    const node = selected ? next(selected) : nodes[0];
    if (node) { select(node); reveal(node); }
  } else return;
  event.preventDefault();
});
part("closer").addEventListener("click", () => zoom(1.3));
part("farther").addEventListener("click", () => zoom(1 / 1.3));
part("whole").addEventListener("click", showWhole);
part("close").addEventListener("click", () => { select(null); canvas.focus(); });
part("colour").addEventListener("change", colour);
dark.addEventListener("change", () => { readTheme(); colour(); });

// ---- beginning

function resize() {
  const { width, height } = canvas.parentElement.getBoundingClientRect(), first = !size.width;
  camera.x += (size.width - width) / 2 / camera.scale; // what is in the middle stays there
  camera.y += (size.height - height) / 2 / camera.scale;
  Object.assign(size, { width, height });
  canvas.width = Math.round(width * devicePixelRatio);
  canvas.height = Math.round(height * devicePixelRatio);
  if (first) show(wholeScale() < WORDS_FROM ? READABLE : wholeScale());
  else if (selected) reveal(selected);
  else draw();
}

document.title = `Task graph: ${graph.title}`;
part("title").textContent = graph.title;
part("note").textContent = graph.note;
part("colour").append(
  ...COLOURS.filter((key) => graph.attributes.includes(key)).map((key) => made("option", { value: key, textContent: TITLES[key] ?? key })),
);
readTheme();
colour();
new ResizeObserver(resize).observe(canvas.parentElement);
