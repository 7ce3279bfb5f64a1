// Images as buttons, a column for each seed. A row is a prompt with before and after in each cell, or where several
// models are compared one model's images of a prompt.
// value: {job, seeds, rows: [{prompt, model, images: [url or ""], picks: [index of the pair]}]}, or nothing yet.
const box = element.querySelector(".pair-table");
let job = "";
let chosen = ""; // row and column of the cell that was pressed

function node(kind, properties = {}, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

// The original is part of the first pair too; at first the erased model's image of it is the one that is marked.
function mark() {
  const place = chosen || (props.value?.rows?.[0]?.model ? "1-0" : "0-0");
  box.querySelectorAll("td > button").forEach((button) => {
    button.setAttribute("aria-pressed", String(button.dataset.at === place));
  });
}

function cell(url, index, place, prompt, seed, model) {
  if (!url) return node("td", {}, node("span", { className: "pair-missing" }));
  const button = node("button", { type: "button" }, node("img", { src: url, alt: "" }));
  button.setAttribute("aria-label", `${prompt}, seed ${seed}, ${model || "before and after"}`);
  button.dataset.at = place;
  button.addEventListener("click", () => {
    chosen = place;
    mark();
    trigger("pick", { job, index });
  });
  return node("td", {}, button);
}

function show() {
  const { seeds = [], rows = [] } = props.value || {};
  if (props.value?.job !== job) [job, chosen] = [props.value?.job, ""];
  const focused = [...box.querySelectorAll("td > button")].indexOf(document.activeElement);
  const head = node("tr", {}, node("th"), ...seeds.map((seed) => node("th", { scope: "col", textContent: `seed ${seed}` })));
  const lines = rows.map(({ prompt, model, images, picks }, row) => node(
    "tr", { className: model === "original" ? "is-first" : "" },
    node("th", { scope: "row" }, ...(model ? [node("b", { textContent: model }), " "] : []), node("span", { textContent: prompt })),
    ...images.map((url, i) => cell(url, picks[i], `${row}-${i}`, prompt, seeds[i], model)),
  ));
  box.classList.toggle("is-single", rows.some(({ model }) => model));
  box.replaceChildren(...(rows.length ? [node("table", {}, node("thead", {}, head), node("tbody", {}, ...lines))] : []));
  mark();
  box.querySelectorAll("td > button")[focused]?.focus();
}

watch("value", show);
show();
