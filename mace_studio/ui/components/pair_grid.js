// Pairs of images, a row for each prompt and a column for each seed, as buttons.
// value: {job, seeds, rows: [{prompt, images: [url or ""]}]}, or nothing yet.
const box = element.querySelector(".pair-table");
let job = "";
let chosen = 0;

function node(kind, properties = {}, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

function mark() {
  box.querySelectorAll("td").forEach((cell, i) => cell.firstChild?.setAttribute("aria-pressed", String(i === chosen)));
}

function cell(url, index, prompt, seed) {
  if (!url) return node("td", {}, node("span", { className: "pair-missing" }));
  const button = node("button", { type: "button" }, node("img", { src: url, alt: "" }));
  button.setAttribute("aria-label", `${prompt}, seed ${seed}, before and after`);
  button.addEventListener("click", () => {
    chosen = index;
    mark();
    trigger("pick", { index });
  });
  return node("td", {}, button);
}

function show() {
  const { seeds = [], rows = [] } = props.value || {};
  if (props.value?.job !== job) [job, chosen] = [props.value?.job, 0];
  const focused = [...box.querySelectorAll("td > button")].indexOf(document.activeElement);
  const head = node("tr", {}, node("th"), ...seeds.map((seed) => node("th", { scope: "col", textContent: `seed ${seed}` })));
  const lines = rows.map(({ prompt, images }, row) => node(
    "tr", {}, node("th", { scope: "row", textContent: prompt }),
    ...images.map((url, i) => cell(url, row * seeds.length + i, prompt, seeds[i])),
  ));
  box.replaceChildren(...(rows.length ? [node("table", {}, node("thead", {}, head), node("tbody", {}, ...lines))] : []));
  mark();
  box.querySelectorAll("td > button")[focused]?.focus();
}

watch("value", show);
show();
