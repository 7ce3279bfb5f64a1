// The erased models. value: {rows: [{name, erased, scores, size, made, method, note}], passedOver: [sentence, ...],
// wanted: [number, [name, ...]], chosen: [name, ...]}; where chosen is null, what the user has chosen by now stays, or, at
// another number than before, what is wanted is chosen.
// Every text is put in as text, never as markup.
const box = element.querySelector(".model-list");
let kept = []; // names of the chosen models
let asked = 0; // the last number

function cell(kind, text, className) {
  const node = document.createElement(kind);
  node.textContent = text;
  node.className = className || "";
  return node;
}

function pick() {
  const checked = [...box.querySelectorAll("input:checked")].map((input) => input.value);
  const before = kept.filter((name) => checked.includes(name));
  const chosen = [...new Set([...before, ...checked])]; // in the order of choosing: the first one's settings count
  box.querySelectorAll("tr").forEach((row) => row.classList.toggle("is-chosen", !!row.querySelector("input:checked")));
  kept = chosen;
  props.value = { ...props.value, chosen };
}

function rowFor(model, number, chosen) {
  const row = document.createElement("tr");
  const name = cell("th", "");
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "checkbox", value: model.name });
  input.checked = chosen.includes(model.name);
  input.addEventListener("change", pick);
  name.scope = "row";
  label.append(input, cell("b", model.name));
  name.append(label, cell("small", model.method), cell("small", model.note, "model-note"), cell("small", [model.scores.replaceAll("\n", " · "), model.size, model.made].filter(Boolean).join(" · "), "on-phone"));
  row.classList.toggle("is-chosen", input.checked);
  row.append(name, cell("td", model.erased), cell("td", model.scores || "–", "hide-phone model-scores"));
  row.append(cell("td", model.size, "hide-phone"), cell("td", model.made, "hide-phone"));
  // The whole row is the checkbox's; a press on its label reaches it anyway.
  row.addEventListener("click", (event) => { if (!event.target.closest("label")) input.click(); });
  return row;
}

function show() {
  const { rows = [], passedOver = [], wanted = [0, []], chosen = [] } = props.value || {};
  if (!chosen) kept = (wanted[0] === asked ? kept : wanted[1]).filter((name) => rows.some((model) => model.name === name));
  asked = wanted[0];
  const focused = box.contains(document.activeElement) ? document.activeElement.value : null;
  box.querySelector("tbody").replaceChildren(...rows.map((model, i) => rowFor(model, i, kept)));
  box.classList.toggle("is-empty", !rows.length);
  const notes = box.querySelector(".passed-over");
  notes.hidden = !passedOver.length;
  notes.replaceChildren(...passedOver.map((sentence) => cell("li", sentence)));
  if (focused !== null) [...box.querySelectorAll("input")].find((input) => input.value === focused)?.focus();
  if (!chosen) props.value = { ...props.value, chosen: kept };
}

watch("value", show);
show();
