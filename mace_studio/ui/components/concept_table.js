// The table of concepts. Its value is a list of rows of four texts: phrase, mapping, kind, synonyms.
// What a user typed only ever becomes text (.value, .textContent), never markup.
const list = element.querySelector(".concept-rows");
const names = (n) => [`Concept ${n}`, `Concept ${n} maps to`, `Kind of concept ${n}`, `Synonyms of concept ${n}`];
const hints = ["such as Van Gogh", "such as an artist", "", "for testing"];

const read = () => [...list.children].map((row) => [...row.querySelectorAll("[data-cell]")].map((cell) => cell.value));
const commit = () => { props.value = read(); };

function number() {
  [...list.children].forEach((row, i) => {
    row.setAttribute("aria-label", `Concept ${i + 1}`);
    row.querySelectorAll("[data-cell]").forEach((cell, column) => {
      cell.setAttribute("aria-label", names(i + 1)[column]);
      cell.dataset.cell = `${i}-${column}`;
    });
    row.querySelector("button").setAttribute("aria-label", `Remove concept ${i + 1}`);
  });
}

function cellFor(column, text) {
  const cell = document.createElement(column === 2 ? "select" : "input");
  if (column === 2) props.kinds.forEach((kind) => cell.add(new Option(kind, kind)));
  else Object.assign(cell, { type: "text", placeholder: hints[column], autocomplete: "off", spellcheck: false });
  cell.value = text;
  cell.dataset.cell = "";
  return cell;
}

function rowFor(texts) {
  const row = document.createElement("div");
  row.className = "concept-row";
  row.setAttribute("role", "group");
  const remove = document.createElement("button");
  Object.assign(remove, { type: "button", textContent: "×", className: "concept-remove", title: "Remove this concept" });
  row.append(...texts.map((text, column) => cellFor(column, text)), remove);
  return row;
}

function show(rows) {
  list.replaceChildren(...rows.map(rowFor));
  number();
}

function addAfter(row) {
  const kind = row ? row.querySelector("select").value : props.kinds[0];
  const fresh = rowFor(["", "", kind, ""]);
  if (row) row.after(fresh); else list.append(fresh);
  number();
  fresh.querySelector("input").focus();
  commit();
}

list.addEventListener("input", commit);
list.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !event.target.matches("input") || event.isComposing) return;
  event.preventDefault();
  addAfter(event.target.closest(".concept-row"));
});
list.addEventListener("click", (event) => {
  if (!event.target.matches(".concept-remove")) return;
  const row = event.target.closest(".concept-row");
  const next = row.nextElementSibling || row.previousElementSibling;
  row.remove();
  number();
  (next ? next.querySelector("button") : document.querySelector("#add-concept")).focus();
  commit();
});
element.closest("#concepts").addEventListener("add-row", () => addAfter(list.lastElementChild));
watch("value", () => { if (JSON.stringify(props.value || []) !== JSON.stringify(read())) show(props.value || []); });
show(props.value || []);
