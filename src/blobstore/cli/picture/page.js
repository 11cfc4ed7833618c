"use strict";
// The clusters of a store on a canvas, and the table of its blobs, which is in the page already.
// Nothing here asks the network, and no text becomes markup.

const store = JSON.parse(document.getElementById("data").textContent);
const view = document.getElementById("view");
const canvas = view.querySelector("canvas");
const spacer = document.getElementById("spacer");
const tip = document.getElementById("tip");
const spoken = document.getElementById("spoken");
const rows = [...document.querySelectorAll("tbody tr")];

const CELLS_MAX = 4e6; // a page of more pixels is not scrolled to its end by every browser
const PITCHES = [6, 8, 11, 15, 20, 26, 34]; // pixels from one cell to the next
const LETTERED_MIN = 20;
const MARGIN = 8; // above and below the cells, together
const METADATA = -1, FREE = -2, UNKNOWN = -3;

// --- what there is: runs of neighbouring clusters of one owner -------------------------------

const runCount = store.runs.length / 2;
const runStart = new Float64Array(runCount + 1);
const runOwner = new Int32Array(runCount);
for (let run = 0; run < runCount; run++) {
  runStart[run + 1] = runStart[run] + store.runs[2 * run];
  runOwner[run] = store.runs[2 * run + 1];
}

/** Return the last position whose value is at most `wanted`; `starts` ascend from 0. */
function lastUpTo(starts, wanted) {
  let low = 0, high = starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= wanted) low = middle; else high = middle - 1;
  }
  return low;
}

const runAt = (cluster) => Math.min(lastUpTo(runStart, cluster), runCount - 1);

store.blobs.forEach((blob, number) => {
  blob.number = number;
  blob.clones = [];
  blob.starts = new Float64Array(blob.extents.length / 2 + 1);
  blob.extents.forEach((value, at) => {
    if (at % 2) blob.starts[(at + 1) / 2] = blob.starts[(at - 1) / 2] + value;
  });
  blob.count = blob.starts[blob.starts.length - 1];
});
for (const blob of store.blobs) if (blob.parent >= 0) store.blobs[blob.parent].clones.push(blob);

/** Return the cluster of the device that a blob itself has at `index`, 0 for none. */
function ownCluster(blob, index) {
  if (index >= blob.count) return 0;
  const part = Math.min(lastUpTo(blob.starts, index), blob.starts.length - 2);
  const first = blob.extents[2 * part];
  return first && first + index - blob.starts[part];
}

/** Return where in its owner a cluster of the device is, -1 if that is not known. */
function indexIn(blob, cluster) {
  for (let part = 0; part < blob.starts.length - 1; part++) {
    const first = blob.extents[2 * part], count = blob.extents[2 * part + 1];
    if (first && cluster >= first && cluster < first + count) return blob.starts[part] + cluster - first;
  }
  return -1;
}

/** Return the clones, and theirs, that read the cluster which a blob has at `index`. */
function readersOf(blob, index) {
  const found = [], waiting = [...blob.clones];
  while (waiting.length) {
    const clone = waiting.pop();
    if (index >= clone.count || ownCluster(clone, index)) continue;
    found.push(clone);
    waiting.push(...clone.clones);
  }
  return found.sort((one, other) => one.number - other.number);
}

/** Return [first, end, is own] for all that a blob reads, in the order of the device. */
function readBy(blob) {
  const found = [];
  let gaps = [[0, blob.count]];
  for (let at = blob; at && gaps.length; at = store.blobs[at.parent]) {
    const left = [];
    for (const [start, end] of gaps) {
      for (let index = start; index < Math.min(end, at.count); ) {
        const part = Math.min(lastUpTo(at.starts, index), at.starts.length - 2);
        const stop = Math.min(end, at.starts[part + 1]);
        const first = at.extents[2 * part];
        const from = first + index - at.starts[part];
        if (first) found.push([from, from + stop - index, at === blob]);
        else left.push([index, stop]);
        index = stop;
      }
    }
    gaps = left;
  }
  return found.sort((one, other) => one[0] - other[0]);
}

// --- scale: how many clusters a cell is, and how large it is drawn ---------------------------

const levels = [];
for (let perCell = 2 ** Math.ceil(Math.log2(Math.max(1, store.total / 256))); perCell > 1; perCell /= 2)
  levels.push({ perCell, pitch: PITCHES[0] });
for (const pitch of PITCHES) levels.push({ perCell: 1, pitch });
const usable = levels.filter(({ perCell }) => store.total / perCell <= CELLS_MAX);

let level = 0, chosenByHand = false;
let columns = 1, left = 0, width = 0, height = 0;
let selected = null, marks = [], markStart = new Float64Array(1);
let cursor = 0, hovered = -1;

const scale = () => usable[level];
const cellCount = () => Math.ceil(store.total / scale().perCell);
const columnsAt = (pitch) => {
  const most = Math.floor((width - left - MARGIN) / pitch);
  return Math.max(1, most >= 16 ? most - (most % 8) : most);
};

const heightMax = () => Math.max(160, Math.min(Math.floor(innerHeight * 0.56), 620));

function fittingLevel() {
  let best = 0;
  usable.forEach(({ perCell, pitch }, number) => {
    const rowCount = Math.ceil(store.total / perCell / columnsAt(pitch));
    if (rowCount * pitch + MARGIN <= heightMax()) best = number;
  });
  return best;
}

function layOut() {
  width = view.clientWidth;
  left = 16 + 7 * String(store.total).length;
  if (!chosenByHand) level = fittingLevel();
  columns = columnsAt(scale().pitch);
  const whole = Math.ceil(cellCount() / columns) * scale().pitch + MARGIN;
  height = Math.min(whole, heightMax());
  view.style.height = `${height + view.offsetHeight - view.clientHeight}px`;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  spacer.style.height = `${whole - height}px`;
  const { perCell } = scale();
  document.getElementById("scale").textContent =
    perCell === 1 ? "a square is a cluster" : `a square is ${perCell} clusters, pale if others own some`;
  document.getElementById("out").disabled = level === 0;
  document.getElementById("in").disabled = level === usable.length - 1;
  draw();
}

/** Change the scale; the cluster at `y` pixels below the upper edge stays there. */
function zoom(by, y = height / 2) {
  const next = Math.max(0, Math.min(usable.length - 1, level + by));
  if (next === level) return;
  const cluster = Math.floor((view.scrollTop + y) / scale().pitch) * columns * scale().perCell;
  level = next;
  chosenByHand = true;
  layOut();
  view.scrollTop = Math.floor(cluster / scale().perCell / columns) * scale().pitch - y;
  draw();
}

// --- drawing: only the cells that are seen ---------------------------------------------------

let colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ground", "free", "used", "soft", "strong", "line", "focus"])
    colours[name] = style.getPropertyValue(`--${name}`).trim();
}

/** Say who owns most of a range, as the picture on a terminal does: free only if nobody else. */
function ownerOf(first, end, from) {
  let run = from;
  while (runStart[run + 1] <= first) run++;
  if (runStart[run + 1] >= end) return { owner: runOwner[run], whole: true, run };
  const counts = new Map();
  const start = run;
  for (; run < runCount && runStart[run] < end; run++) {
    const count = Math.min(end, runStart[run + 1]) - Math.max(first, runStart[run]);
    counts.set(runOwner[run], (counts.get(runOwner[run]) || 0) + count);
  }
  let owner = FREE, most = 0;
  for (const [each, count] of counts) if (each !== FREE && count > most) [owner, most] = [each, count];
  return { owner, whole: counts.size === 1, run: Math.max(start, run - 1) };
}

/** Say whether the selected blob reads from a range: 2 its own, 1 a parent's, 0 neither. */
function markOf(first, end) {
  let found = 0;
  for (let at = lastUpTo(markStart, first); at < marks.length && marks[at][0] < end; at++)
    if (marks[at][1] > first) found = Math.max(found, marks[at][2] ? 2 : 1);
  return found;
}

let isAsked = false;
function draw() {
  if (isAsked) return;
  isAsked = true;
  requestAnimationFrame(() => { isAsked = false; drawNow(); });
}

function drawNow() {
  const { perCell, pitch } = scale();
  const size = pitch - (pitch >= LETTERED_MIN ? 3 : pitch > 6 ? 2 : 1);
  const paint = canvas.getContext("2d");
  const ratio = window.devicePixelRatio || 1;
  paint.setTransform(ratio, 0, 0, ratio, 0, 0);
  lastColour = "", lastAlpha = -1;
  fill(paint, colours.ground, 1);
  paint.fillRect(0, 0, width, height);
  const top = view.scrollTop;
  const firstRow = Math.max(0, Math.floor((top - 4) / pitch));
  const lastRow = Math.min(Math.ceil(cellCount() / columns), Math.ceil((top + height) / pitch));
  const labelled = Math.max(1, Math.ceil(15 / pitch));
  let from = runAt(firstRow * columns * perCell), before = null;
  for (let row = firstRow; row < lastRow; row++) {
    const y = 4 + row * pitch - top;
    if (row % labelled === 0) {
      fill(paint, colours.soft, 1);
      paint.font = "11px ui-monospace, Menlo, 'DejaVu Sans Mono', monospace";
      paint.textAlign = "right";
      paint.textBaseline = "middle";
      paint.fillText(String(row * columns * perCell), left - 8, y + Math.max(size, 9) / 2);
    }
    for (let column = 0; column < columns; column++) {
      const first = (row * columns + column) * perCell;
      if (first >= store.total) break;
      const end = Math.min(first + perCell, store.total);
      const cell = ownerOf(first, end, from);
      from = cell.run;
      const mark = selected ? markOf(first, end) : 2;
      drawCell(paint, left + column * pitch, y, size, cell, mark);
      if (size >= LETTERED_MIN - 3 && mark === 2 && cell.owner >= 0 && (column === 0 || cell.owner !== before)) {
        fill(paint, "#ffffff", 1);
        paint.font = "600 11px system-ui, sans-serif";
        paint.textAlign = "center";
        paint.fillText(store.blobs[cell.owner].letter, left + column * pitch + size / 2, y + size / 2 + 1);
      }
      before = cell.owner;
      if (hovered >= first && hovered < end) outline(paint, left + column * pitch, y, size);
    }
  }
}

let lastColour = "", lastAlpha = -1; // setting a colour again costs more than drawing with it
function fill(paint, colour, alpha) {
  if (colour !== lastColour) paint.fillStyle = lastColour = colour;
  if (alpha !== lastAlpha) paint.globalAlpha = lastAlpha = alpha;
}

function drawCell(paint, x, y, size, cell, mark) {
  const seen = mark || cell.owner === FREE ? 1 : 0.16;
  const colour =
    cell.owner >= 0 ? store.blobs[cell.owner].colour : cell.owner === FREE ? colours.free : colours.used;
  fill(paint, colour, seen * (cell.whole ? 1 : 0.55));
  paint.fillRect(x, y, size, size);
  if (selected && mark === 1 && size > 6) {
    fill(paint, colours.ground, 0.9);
    const inset = Math.max(2, Math.floor(size / 4));
    paint.fillRect(x + inset, y + inset, size - 2 * inset, size - 2 * inset);
  }
  if (cell.owner === UNKNOWN && size > 6) {
    fill(paint, colours.ground, 1);
    paint.fillRect(x + size / 2 - 1, y + 1, 2, size - 2);
  }
}

function outline(paint, x, y, size) {
  fill(paint, colours.ground, 1);
  paint.strokeStyle = colours.strong;
  paint.lineWidth = 2;
  paint.strokeRect(x - 1, y - 1, size + 2, size + 2);
}

// --- what a cluster is, in words ---------------------------------------------------------------

function described(cluster) {
  const run = runAt(cluster), owner = runOwner[run];
  const { perCell } = scale();
  const end = Math.min(cluster + perCell, store.total);
  const place = perCell === 1 ? `cluster ${cluster}` : `clusters ${cluster} to ${end - 1}`;
  const cell = ownerOf(cluster, end, run);
  if (cell.owner < 0) return `${place}\n${store.uses[-1 - cell.owner]}`;
  const blob = store.blobs[cell.owner];
  const lines = [cell.whole ? place : `${place}, most of them:`, `${blob.name}  ${blob.id}`, blob.kind];
  if (owner === cell.owner) {
    const index = indexIn(blob, cluster);
    if (index >= 0) {
      const readers = readersOf(blob, index).map((reader) => reader.name);
      const more = readers.length > 8 ? ` and ${readers.length - 8} more` : "";
      lines.push(`cluster ${index} of ${blob.count} of the blob`);
      if (readers.length) lines.push(`also read by ${readers.slice(0, 8).join(", ")}${more}`);
    }
  }
  return lines.join("\n");
}

/** Return the first cluster of the cell at a point of the view, -1 beside the cells. */
function clusterAt(x, y) {
  const { perCell, pitch } = scale();
  const column = Math.floor((x - left) / pitch);
  const row = Math.floor((y - 4 + view.scrollTop) / pitch);
  if (column < 0 || column >= columns || row < 0) return -1;
  const cluster = (row * columns + column) * perCell;
  return cluster < store.total ? cluster : -1;
}

function point(cluster, x, y) {
  hovered = cluster;
  tip.hidden = cluster < 0;
  if (cluster >= 0) {
    tip.textContent = described(cluster);
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 8))}px`;
    tip.style.top = `${y + 18 + box.height > innerHeight ? Math.max(4, y - box.height - 10) : y + 18}px`;
  }
  draw();
}

// --- the pointer -------------------------------------------------------------------------------

canvas.addEventListener("pointermove", (event) => {
  const box = canvas.getBoundingClientRect();
  point(clusterAt(event.clientX - box.left, event.clientY - box.top), event.clientX, event.clientY);
});
canvas.addEventListener("pointerleave", () => point(-1));
canvas.addEventListener("click", (event) => {
  const box = canvas.getBoundingClientRect();
  const cluster = clusterAt(event.clientX - box.left, event.clientY - box.top);
  if (cluster >= 0) select(ownerOf(cluster, Math.min(cluster + scale().perCell, store.total), runAt(cluster)).owner);
});
view.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  zoom(event.deltaY < 0 ? 1 : -1, event.clientY - canvas.getBoundingClientRect().top);
}, { passive: false });
view.addEventListener("scroll", draw);
document.getElementById("in").addEventListener("click", () => zoom(1));
document.getElementById("out").addEventListener("click", () => zoom(-1));
document.getElementById("fit").addEventListener("click", () => { chosenByHand = false; layOut(); });

// --- the keyboard, in the picture ----------------------------------------------------------------

view.addEventListener("keydown", (event) => {
  const { perCell, pitch } = scale();
  const page = Math.max(1, Math.floor(height / pitch) - 1) * columns;
  const steps = {
    ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -page, PageDown: page,
    Home: -Infinity, End: Infinity,
  };
  if (event.key in steps) {
    const cell = Math.floor(cursor / perCell) + steps[event.key];
    cursor = Math.max(0, Math.min(cell, cellCount() - 1)) * perCell;
    showCursor();
  } else if (event.key === "Enter") select(runOwner[runAt(cursor)]);
  else if (event.key === "Escape") { select(FREE); point(-1); }
  else if (event.key === "+" || event.key === "=") zoom(1);
  else if (event.key === "-") zoom(-1);
  else if (event.key === "0") { chosenByHand = false; layOut(); }
  else return;
  event.preventDefault();
});

function showCursor() {
  const { perCell, pitch } = scale();
  const cell = cursor / perCell;
  const top = 4 + Math.floor(cell / columns) * pitch;
  if (top < view.scrollTop) view.scrollTop = top - 4;
  if (top + pitch > view.scrollTop + height) view.scrollTop = top + pitch - height;
  const box = canvas.getBoundingClientRect();
  point(cursor, box.left + left + (cell % columns) * pitch, box.top + top - view.scrollTop);
  spoken.textContent = tip.textContent;
}

// --- the tree ------------------------------------------------------------------------------------

function select(number) {
  const blob = number >= 0 && selected?.number !== number ? store.blobs[number] : null;
  selected = blob;
  marks = blob ? readBy(blob) : [];
  markStart = new Float64Array(marks.length ? marks.map(([first]) => first) : 1);
  rows.forEach((row, at) => row.setAttribute("aria-selected", String(blob !== null && at === blob.number)));
  document.getElementById("chosen").textContent =
    blob ? `${blob.name}: full squares are its own, hollow ones its parents'` : "";
  draw();
}

/** Show a row if no clone above it is folded and it has the text that is looked for. */
function showRows() {
  const wanted = document.getElementById("find").value.trim().toLowerCase();
  const folded = [];
  rows.forEach((row, number) => {
    const depth = store.blobs[number].depth;
    while (folded.length && folded[folded.length - 1] >= depth) folded.pop();
    const blob = store.blobs[number];
    const fits = `${blob.name} ${blob.id}`.toLowerCase().includes(wanted);
    row.hidden = wanted ? !fits : folded.length > 0;
    if (row.getAttribute("aria-expanded") === "false") folded.push(depth);
  });
}

function expand(row, open) {
  if (!row.hasAttribute("aria-expanded")) return;
  row.setAttribute("aria-expanded", String(open));
  showRows();
}

function focusRow(from, by) {
  for (let at = from + by; at >= 0 && at < rows.length; at += by)
    if (!rows[at].hidden) {
      rows.forEach((row) => { row.tabIndex = -1; });
      rows[at].tabIndex = 0;
      rows[at].focus();
      return;
    }
}

rows.forEach((row, number) => {
  row.addEventListener("click", (event) => {
    if (event.target.className === "turn") expand(row, row.getAttribute("aria-expanded") === "false");
    else select(number);
  });
  row.addEventListener("keydown", (event) => {
    const isOpen = row.getAttribute("aria-expanded") === "true";
    if (event.key === "ArrowDown") focusRow(number, 1);
    else if (event.key === "ArrowUp") focusRow(number, -1);
    else if (event.key === "Home") focusRow(-1, 1);
    else if (event.key === "End") focusRow(rows.length, -1);
    else if (event.key === "ArrowRight") expand(row, true);
    else if (event.key === "ArrowLeft" && isOpen) expand(row, false);
    else if (event.key === "ArrowLeft" && store.blobs[number].parent >= 0) focusRow(store.blobs[number].parent - 1, 1);
    else if (event.key === "Enter" || event.key === " ") select(number);
    else if (event.key === "Escape") select(FREE);
    else return;
    event.preventDefault();
  });
});
document.getElementById("find").addEventListener("input", showRows);

// --- the beginning -------------------------------------------------------------------------------

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); draw(); });
new ResizeObserver(layOut).observe(view);
readColours();
layOut();
drawNow();
