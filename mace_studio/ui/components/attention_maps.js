// Attention maps of every word, one row for each run and one for the difference of two. The maps of all steps are here,
// so averaging over steps, playing, colouring, enlarging and reading a value ask no server.
// value: {rows, words, shape: [runs, steps, words, map rows, map columns], highest, maps, maskWord, mask, palette,
// changes, telling, finding, replaced, title: [prompt, settings], view}, as attention_maps.shown makes it, or nothing yet.
const root = element.querySelector(".maps");
const [first, last] = root.querySelectorAll(".maps-steps input");
const said = root.querySelector("output");
const play = root.querySelector(".maps-play");
const over = root.querySelector(".maps-over");
const shared = root.querySelector(".maps-shared");
const scales = root.querySelector(".maps-scales");
const grid = root.querySelector(".maps-grid");
const value = root.querySelector(".maps-value");
const large = root.querySelector(".maps-large");
let data = null;
let chosen = 0;
let timer = 0;

const raw = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const name = (word) => (word.role === "word" || word.role === "concept" ? word.text : `⟨${word.text}⟩`);

function node(kind, properties = {}, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

function read(shown) {
  const [runs, steps, words, rows, columns] = shown.shape;
  const levels = new Uint16Array(raw(shown.maps).buffer);
  return { ...shown, runs, steps, count: words, high: rows, wide: columns, pixels: rows * columns, levels,
    mask: raw(shown.mask), palette: raw(shown.palette), changes: raw(shown.changes) };
}

// The mean of a word's maps over the chosen steps, for a run; of a difference where the run is past the last one.
function mean(run, word) {
  if (run === data.runs) {
    const [old, now] = [mean(0, word), mean(1, word)];
    return now.map((x, i) => x - old[i]);
  }
  const total = new Float64Array(data.pixels);
  const [from, to] = [Number(first.value) - 1, Number(last.value)];
  for (let step = from; step < to; step++) {
    const start = ((run * data.steps + step) * data.count + word) * data.pixels;
    for (let i = 0; i < data.pixels; i++) total[i] += data.levels[start + i];
  }
  return total.map((x) => (x * data.highest) / 65535 / (to - from));
}

// Where a colour scale ends: the largest value of any word; the start token and the padding get far more.
function top(maps) {
  const own = data.words.map((word, i) => i).filter((i) => ["word", "concept"].includes(data.words[i].role));
  const words = own.length ? own : data.words.map((word, i) => i);
  return Math.max(1e-6, ...words.flatMap((i) => maps.slice(0, data.runs).map((row) => Math.max(...row[i]))));
}

function paint(canvas, map, highest, isChange) {
  const colours = isChange ? data.changes : data.palette;
  const picture = new ImageData(data.wide, data.high);
  map.forEach((x, i) => {
    const share = isChange ? (x / highest + 1) / 2 : x / highest;
    const at = 3 * Math.max(0, Math.min(255, Math.round(255 * share)));
    picture.data.set([colours[at], colours[at + 1], colours[at + 2], 255], 4 * i);
  });
  canvas.width = data.wide;
  canvas.height = data.high;
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function titles() {
  const rows = data.rows.map((row) => row.name);
  return data.runs === 2 ? [...rows, "difference"] : rows;
}

function cell(run, word) {
  const canvas = node("canvas");
  canvas.setAttribute("role", "img");
  const base = data.rows[Math.min(run, data.runs - 1)].image;
  const box = node("div", { className: "maps-cell" }, node("img", { src: base, alt: "" }), canvas);
  canvas.addEventListener("pointermove", (event) => tell(event, canvas, run, word));
  canvas.addEventListener("click", () => choose(word));
  return box;
}

function tell(event, canvas, run, word) {
  const box = canvas.getBoundingClientRect();
  const row = Math.min(data.high - 1, Math.floor(((event.clientY - box.top) / box.height) * data.high));
  const column = Math.min(data.wide - 1, Math.floor(((event.clientX - box.left) / box.width) * data.wide));
  const share = canvas.map[row * data.wide + column];
  value.textContent = `${name(data.words[word])}, ${titles()[run]}, row ${row + 1}, column ${column + 1}: ${percent(share)}`;
}

function build() {
  grid.style.setProperty("--words", data.count);
  const head = node("tr", {}, node("th"));
  data.words.forEach((word, i) => {
    const button = node("button", { type: "button", textContent: name(word), title: word.tokens });
    button.classList.add(`is-${word.role}`);
    button.classList.toggle("is-replaced", data.replaced && word.role === "concept");
    button.addEventListener("click", () => choose(i));
    head.append(node("th", { scope: "col" }, button));
  });
  const lines = titles().map((title, run) => {
    const row = data.rows[run];
    const label = node("th", { scope: "row", className: `is-${title}` }, node("b", { textContent: title }));
    if (row) label.append(node("img", { src: row.image, alt: `The image ${title}` }));
    for (const [phrase, share] of row ? row.presence : []) {
      label.append(node("span", { textContent: `p(${phrase}) = ${percent(share)}` }));
    }
    return node("tr", {}, label, ...data.words.map((word, i) => node("td", {}, cell(run, i))));
  });
  grid.replaceChildren(node("thead", {}, head), node("tbody", {}, ...lines));
}

function draw() {
  const maps = titles().map((title, run) => data.words.map((word, i) => mean(run, i)));
  const all = top(maps);
  titles().forEach((title, run) => {
    const isChange = run === data.runs;
    data.words.forEach((word, i) => {
      const canvas = grid.tBodies[0].rows[run].cells[i + 1].querySelector("canvas");
      canvas.map = maps[run][i];
      const own = Math.max(1e-6, ...Array.from(maps[run][i], Math.abs));
      paint(canvas, canvas.map, shared.checked ? all : own, isChange);
      const share = canvas.map.reduce((a, b) => a + b, 0) / data.pixels;
      canvas.setAttribute("aria-label", `Attention to ${name(word)}, ${title}: ${percent(share)} on average`);
    });
  });
  said.textContent = first.value === last.value ? `step ${first.value}` : `steps ${first.value} to ${last.value}`;
  drawScales(all);
  drawLarge(all);
}

function drawScales(all) {
  const bars = [["palette", "0 %", shared.checked ? percent(all) : "each map's own"]];
  if (data.runs === 2) bars.push(["changes", shared.checked ? `−${percent(all)}` : "less", shared.checked ? `+${percent(all)}` : "more"]);
  scales.replaceChildren(...bars.map(([colours, low, high]) => {
    const canvas = node("canvas", { width: 256, height: 1 });
    const line = new ImageData(256, 1);
    for (let i = 0; i < 256; i++) line.data.set([...data[colours].slice(3 * i, 3 * i + 3), 255], 4 * i);
    canvas.getContext("2d").putImageData(line, 0, 0);
    return node("span", {}, low, canvas, high);
  }));
}

function drawLarge(all) {
  const word = data.words[chosen];
  const figures = titles().map((title, run) => {
    const box = cell(run, chosen);
    const canvas = box.querySelector("canvas");
    canvas.map = grid.tBodies[0].rows[run].cells[chosen + 1].querySelector("canvas").map;
    const own = Math.max(1e-6, ...Array.from(canvas.map, Math.abs));
    paint(canvas, canvas.map, shared.checked ? all : own, run === data.runs);
    canvas.setAttribute("aria-label", `Attention to ${name(word)}, ${title}, enlarged`);
    if (run < data.runs && data.mask.length) box.append(outline());
    return node("figure", {}, node("figcaption", { className: `is-${title}`, textContent: title }), box);
  });
  const title = node("h3", { textContent: `“${word.text}”` });
  const outlined = data.mask.length ? ` · outlined: the concept, by the attention to “${data.maskWord}”` : "";
  const tokens = node("span", { textContent: `as tokens: ${word.tokens}${outlined}` });
  large.replaceChildren(title, tokens, node("div", { className: "maps-pair" }, ...figures));
  grid.querySelectorAll("thead button").forEach((button, i) => button.setAttribute("aria-pressed", String(i === chosen)));
}

// The border of the mask, as lines between pixels.
function outline() {
  const at = (i, j) => i >= 0 && j >= 0 && i < data.high && j < data.wide && data.mask[i * data.wide + j];
  let path = "";
  for (let i = 0; i <= data.high; i++) {
    for (let j = 0; j <= data.wide; j++) {
      if (Boolean(at(i, j)) !== Boolean(at(i - 1, j))) path += `M${j} ${i}h1`;
      if (Boolean(at(i, j)) !== Boolean(at(i, j - 1))) path += `M${j} ${i}v1`;
    }
  }
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${data.wide} ${data.high}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

function choose(word) {
  chosen = word;
  draw();
}

function stop() {
  clearInterval(timer);
  timer = 0;
  play.setAttribute("aria-pressed", "false");
  play.textContent = "▶ Play";
}

function toggle() {
  if (timer) return stop();
  play.setAttribute("aria-pressed", "true");
  play.textContent = "■ Stop";
  let step = 0;
  timer = setInterval(() => {
    step = (step % data.steps) + 1;
    first.value = last.value = step;
    draw();
  }, 350);
}

function limit(moved) {
  stop();
  if (Number(first.value) > Number(last.value)) (moved === first ? last : first).value = moved.value;
  draw();
}

// The table of maps as it is shown, as one PNG: layers, heads, half, steps, scale and overlay included.
function save() {
  const [side, left, top, gap] = [132, 150, 96, 6];
  const rows = titles();
  const sheet = node("canvas", { width: left + data.count * (side + gap), height: top + rows.length * (side + gap) });
  const pen = sheet.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, sheet.width, sheet.height);
  pen.imageSmoothingEnabled = false;
  const write = (text, x, y, style = "14px sans-serif", colour = "#1b2230") => {
    pen.font = style;
    pen.fillStyle = colour;
    pen.fillText(text, x, y, sheet.width - x - 8);
  };
  write(`“${data.title[0]}”`, 8, 22, "bold 16px sans-serif");
  const scale = shared.checked ? "one colour scale" : "each map its own scale";
  write([data.title[1], data.view, said.textContent, scale].join(" · "), 8, 44, "12px sans-serif", "#566073");
  data.words.forEach((word, i) => {
    const marked = word.role === "concept";
    write(name(word), left + i * (side + gap), 84, marked ? "bold 14px sans-serif" : undefined, marked ? "#b42318" : undefined);
  });
  rows.forEach((title, run) => {
    const y = top + run * (side + gap);
    const line = grid.tBodies[0].rows[run];
    write(title, 8, y + 14, "bold 14px sans-serif");
    const own = line.cells[0].querySelector("img");
    if (own) pen.drawImage(own, 8, y + 22, 100, 100);
    data.words.forEach((word, i) => {
      const x = left + i * (side + gap);
      const box = line.cells[i + 1];
      if (over.checked) pen.drawImage(box.querySelector("img"), x, y, side, side);
      pen.globalAlpha = over.checked ? 0.68 : 1;
      pen.drawImage(box.querySelector("canvas"), x, y, side, side);
      pen.globalAlpha = 1;
    });
  });
  const link = node("a", { download: "attention.png", href: sheet.toDataURL("image/png") });
  link.click();
}

function show() {
  const shown = props.value || {};
  root.classList.toggle("is-empty", !shown.maps);
  stop();
  if (!shown.maps) return;
  const before = data;
  data = read(shown);
  const same = before && before.steps === data.steps;
  first.max = last.max = data.steps;
  if (!same) [first.value, last.value] = [1, data.steps];
  const tokens = (list) => list.map((word) => word.tokens + word.role).join();
  if (!before || tokens(before.words) !== tokens(data.words) || before.replaced !== data.replaced) chosen = data.telling;
  root.querySelector(".maps-finding").textContent = data.finding;
  build();
  draw();
  const column = grid.querySelector("[aria-pressed=true]").closest("th");
  grid.parentElement.scrollLeft = column.offsetLeft + column.offsetWidth + 8 - grid.parentElement.clientWidth;
}

first.addEventListener("input", () => limit(first));
last.addEventListener("input", () => limit(last));
play.addEventListener("click", toggle);
shared.addEventListener("change", draw);
root.querySelector(".maps-save").addEventListener("click", save);
over.addEventListener("change", () => root.classList.toggle("is-over", over.checked));
watch("value", show);
show();
