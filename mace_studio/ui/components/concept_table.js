// The table of concepts. Its value is a list of rows of four texts: phrase, mapping, kind, synonyms.
// What a user typed only ever becomes text (.value, .textContent), never markup.
// props: kinds; vocabulary: JSON text of {known: phrase -> kind, or "", words: all that the model knows, or null,
// rules: [[pattern, kind]]}, as of ui/kinds.py.
const list = element.querySelector(".concept-rows");
const bulk = element.querySelector(".concept-bulk");
const [mapping, kind] = bulk.querySelectorAll("[data-bulk]");
const LABELS = ["Concept", "Maps to", "Kind", "Synonyms"];
const names = (n) => [`Concept ${n}`, `Concept ${n} maps to`, `Kind of concept ${n}`, `Synonyms of concept ${n}`];
let known = {};
let words = null;
let rules = [];
const hints = ["what to erase", "what instead", "", "for testing"];

const cellsOf = (row) => [...row.querySelectorAll("[data-cell]")];
const read = () => [...list.children].map((row) => cellsOf(row).map((cell) => cell.value));
// What the user did; a recipe that fills the form is no edit. Letters are told in a pause of the typing, or when the
// field is left, since Gradio looks through the whole page at every event.
const PAUSE = 250; // milliseconds
let pause = null;
const tell = () => document.dispatchEvent(new Event("lists-edited")); // to components/notice.js
const commit = () => {
  clearTimeout(pause);
  pause = null;
  props.value = read();
  tell();
  trigger("edited");
};
const selected = () => [...list.children].filter((row) => row.querySelector(".concept-select").checked);

function number() {
  [...list.children].forEach((row, i) => {
    if (row.index === i) return; // most rows stay where they are
    row.index = i;
    row.setAttribute("aria-label", `Concept ${i + 1}`);
    row.querySelector(".concept-number").textContent = i + 1;
    row.querySelector(".concept-select").setAttribute("aria-label", `Select concept ${i + 1}`);
    cellsOf(row).forEach((cell, column) => {
      cell.setAttribute("aria-label", names(i + 1)[column]);
      cell.dataset.cell = `${i}-${column}`;
    });
    row.querySelector(".concept-remove").setAttribute("aria-label", `Remove concept ${i + 1}`);
  });
  showSelection();
}

function cellFor(column, text) {
  const box = document.createElement("div");
  const label = document.createElement("span");
  const cell = document.createElement(column === 2 ? "select" : "input");
  if (column === 2) props.kinds.forEach((one) => cell.add(new Option(one, one)));
  else Object.assign(cell, { type: "text", placeholder: hints[column], autocomplete: "off", spellcheck: false });
  if (column < 2) cell.setAttribute("list", column ? "known-mappings" : "known-concepts");
  cell.value = text;
  cell.dataset.cell = "";
  label.textContent = LABELS[column];
  label.setAttribute("aria-hidden", "true");
  box.className = "concept-cell";
  box.append(label, cell);
  return box;
}

function rowFor(texts) {
  const row = document.createElement("div");
  row.className = "concept-row";
  row.setAttribute("role", "group");
  const mark = document.createElement("label");
  const select = Object.assign(document.createElement("input"), { type: "checkbox", className: "concept-select" });
  const shown = Object.assign(document.createElement("span"), { className: "concept-number" });
  mark.className = "concept-mark";
  mark.append(select, shown);
  const remove = document.createElement("button");
  Object.assign(remove, { type: "button", textContent: "×", className: "concept-remove", title: "Remove this concept" });
  row.append(mark, ...texts.map((text, column) => cellFor(column, text)), remove);
  row.filled = texts;
  row.touched = new Set();
  return row;
}

// What a preset says of a concept goes when another phrase takes its place, and comes back with it; what the user typed
// stays.
function follow(row, column) {
  const cells = cellsOf(row);
  row.touched.add(column);
  if (column !== 0) return;
  const phrase = cells[0].value.trim();
  const same = phrase === row.filled[0].trim();
  if (!row.touched.has(3)) cells[3].value = same ? row.filled[3] : "";
  if (!row.touched.has(2)) cells[2].value = same ? row.filled[2] : kindOf(phrase, row.filled[2]);
}

function kindOf(phrase, otherwise) {
  const found = Object.entries(known).find(([name]) => name.toLowerCase() === phrase.toLowerCase());
  if (found?.[1]) return found[1];
  return rules.find(([pattern]) => pattern.test(phrase))?.[1] || otherwise;
}

// Words that the model was not trained with: what they are mapped from or to cannot be shown by it.
const isUnknown = (text) => (text.toLowerCase().match(/\p{L}+/gu) || []).some((word) => !words.has(word));

const SYNONYM = /\s*"(?:[^"]|"")*"|[^,]+/g;

function sentence(phrases, means) {
  const unknown = phrases.filter(isUnknown);
  const named = unknown.map((text) => `“${text}”`).join(" and ");
  return unknown.length && `${named}: the loaded model has not learned ${unknown.length > 1 ? "these" : "this"}, so ${means}.`;
}

function check(row) {
  row.querySelector(".concept-warning")?.remove();
  if (!words) return;
  const [phrase, target, , synonyms] = cellsOf(row).map((cell) => cell.value.trim());
  const said = [
    sentence([phrase, target], "nothing of it can be erased or shown"),
    sentence((synonyms.match(SYNONYM) || []).map((one) => one.trim().replace(/^"|"$/g, "")), "as a synonym it tests nothing"),
  ].filter(Boolean);
  if (!said.length) return;
  const warning = document.createElement("p");
  warning.className = "concept-warning";
  warning.textContent = said.join(" ");
  row.append(warning);
}

function suggest() {
  const read = JSON.parse(props.vocabulary);
  known = read.known;
  words = read.words && new Set(read.words);
  rules = read.rules.map(([pattern, kind]) => [new RegExp(pattern, "u"), kind]);
  const phrases = Object.entries(known);
  const fill = (id, names) => {
    element.querySelector(id).replaceChildren(...names.map((name) => new Option("", name)));
  };
  fill("#known-concepts", words ? phrases.filter(([, kind]) => kind).map(([name]) => name) : []);
  fill("#known-mappings", words ? phrases.map(([name]) => name) : []);
  [...list.children].forEach(check);
}

// What an answer of the server leaves as it is stays what the user typed, and what a preset said of another phrase.
function keep(row, before) {
  const [phrase, , kind, synonyms] = cellsOf(row).map((cell) => cell.value);
  const at = before.findIndex((old) => {
    const [ownPhrase, , ownKind, ownSynonyms] = cellsOf(old).map((cell) => cell.value);
    return ownPhrase === phrase && ownKind === kind && ownSynonyms === synonyms;
  });
  if (at < 0) return;
  const [old] = before.splice(at, 1);
  row.touched = old.touched;
  row.filled = old.filled;
}

function show(rows) {
  const before = [...list.children];
  list.replaceChildren(...rows.map(rowFor));
  [...list.children].forEach((row) => keep(row, before));
  number();
  [...list.children].forEach(check);
  tell();
}

function addAfter(row) {
  const kindBefore = row ? row.querySelector("select").value : props.kinds[0];
  const fresh = rowFor(["", "", kindBefore, ""]);
  if (row) row.after(fresh); else list.append(fresh);
  number();
  fresh.querySelector("[data-cell]").focus();
  commit();
}

// When the last row is gone: the table never lacks one to type in.
function begin() {
  list.replaceChildren();
  addAfter(null);
}

// Several rows at once

function showSelection() {
  const count = selected().length;
  bulk.hidden = list.children.length < 2;
  // Nothing can be done with a single selected row, so its checkbox is no stop of the Tab key.
  list.querySelectorAll(".concept-select").forEach((box) => { box.tabIndex = bulk.hidden ? -1 : 0; });
  bulk.classList.toggle("is-active", count > 0);
  bulk.querySelector("output").textContent = count ? `${count} selected` : "";
  bulk.querySelector(".concept-all").checked = count > 0 && count === list.children.length;
}

function setAll(rows, column, value) {
  rows.forEach((row) => {
    cellsOf(row)[column].value = value;
    row.touched.add(column);
    check(row);
  });
  commit();
}

list.addEventListener("input", (event) => {
  if (event.target.matches(".concept-select")) return showSelection();
  const row = event.target.closest(".concept-row");
  follow(row, cellsOf(row).indexOf(event.target));
  check(row);
  clearTimeout(pause);
  pause = setTimeout(commit, PAUSE);
});
list.addEventListener("focusout", () => { if (pause !== null) commit(); });
list.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !event.target.matches("input[type=text]") || event.isComposing) return;
  event.preventDefault();
  addAfter(event.target.closest(".concept-row"));
});
list.addEventListener("click", (event) => {
  if (!event.target.matches(".concept-remove")) return;
  const row = event.target.closest(".concept-row");
  const next = row.nextElementSibling || row.previousElementSibling;
  if (!next) return begin();
  row.remove();
  number();
  next.querySelector(".concept-remove").focus();
  commit();
});
props.kinds.forEach((one) => kind.add(new Option(one, one)));
kind.value = "";
kind.addEventListener("change", () => { if (kind.value) setAll(selected(), 2, kind.value); kind.value = ""; });
mapping.addEventListener("keydown", (event) => { if (event.key === "Enter") mapping.blur(); });
mapping.addEventListener("change", () => { if (mapping.value.trim()) setAll(selected(), 1, mapping.value.trim()); mapping.value = ""; });
bulk.querySelector(".concept-all").addEventListener("input", (event) => {
  list.querySelectorAll(".concept-select").forEach((box) => { box.checked = event.target.checked; });
  showSelection();
});
bulk.querySelector("button").addEventListener("click", () => {
  selected().forEach((row) => row.remove());
  if (!list.children.length) return begin();
  number();
  commit();
  document.querySelector("#add-concept").focus();
});
element.closest("#concepts").addEventListener("suggested", ({ detail: [phrase, target] }) => {
  const row = [...list.children].find((one) => cellsOf(one)[0].value === phrase);
  if (row) setAll([row], 1, target);
});
element.closest("#concepts").addEventListener("added", ({ detail: { rows, replaces } }) => {
  const kept = replaces ? [] : read().filter((row) => [0, 1, 3].some((i) => row[i].trim()));
  show([...kept, ...rows]);
  commit();
});
element.closest("#concepts").addEventListener("add-row", () => addAfter(list.lastElementChild));
element.closest("#concepts").addEventListener("clear-rows", begin);
watch("value", () => { if (pause === null && JSON.stringify(props.value || []) !== JSON.stringify(read())) show(props.value || []); });
watch("vocabulary", suggest);
show(props.value || []);
suggest();
