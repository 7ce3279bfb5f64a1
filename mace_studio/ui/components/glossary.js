// The glossary: a dialog, and a "?" (which CSS writes, so that it is no part of any text) beside every label, table head,
// fact and `dfn` that has an entry. By keyboard F1 opens the entry of the field that has the focus, so that a form gets no
// stops of the Tab key; what stands beside no field has one stop for each list or table, and arrow keys go on from there.
// props: entries, JSON text of [[words parted by commas, meaning]].
const dialog = element.querySelector("dialog");
const list = dialog.querySelector("dl");
// "λ₁" and "λ1" are the same word, and so are "H_o" and "H_o, top-1".
const plain = (text) => text.normalize("NFKC").trim().toLowerCase();
const entries = JSON.parse(props.entries);
const places = new Map(entries.flatMap(([words], i) => words.split(",").map((word) => [plain(word), i])));
const MARKED = ".slider-field label, .block [data-testid=block-info], .pairs dt, .scores thead th, "
  + ".heading h2, .dialled b, dfn";
const FIELDS = "input, select, textarea, [role=combobox]";

function open(place) {
  dialog.querySelectorAll(".is-sought").forEach((row) => row.classList.remove("is-sought"));
  dialog.showModal();
  const row = list.querySelector(`[data-entry="${place}"]`);
  if (!row) { list.scrollTop = 0; return; }
  row.classList.add("is-sought");
  list.scrollTop = row.offsetTop - list.offsetTop - 20;
}

function entryOf(text) {
  const whole = places.get(plain(text));
  if (whole !== undefined) return whole;
  return text.split(/[,·(]/).map((part) => places.get(plain(part))).find((found) => found !== undefined);
}

// Outside of labels: what stands inside one would become part of the name of its field.
function homeOf(node) {
  if (node.matches(".slider-field label")) return node.closest(".slider-field").querySelector("p");
  if (node.matches("[data-testid=block-info]")) return node.closest(".block");
  return node;
}

// Without the number of a card.
function spoken(node) {
  return [...node.childNodes].filter((one) => one.ariaHidden !== "true").map((one) => one.textContent).join("").trim();
}

function mark() {
  document.querySelectorAll(MARKED).forEach((node) => {
    const home = homeOf(node);
    if (!home || home.querySelector(":scope > .term")) return;
    const word = spoken(node);
    const place = entryOf(word);
    if (place === undefined) return;
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "term", title: entries[place][1] });
    button.setAttribute("aria-label", `What is ${word}?`);
    button.dataset.place = place;
    button.tabIndex = -1;
    home.classList.toggle("has-term", home.matches(".block"));
    home.append(button);
    (home.closest(".slider-field, .has-term")?.querySelectorAll(FIELDS) || []).forEach(describe);
    const group = groupOf(button);
    if (group && !group.querySelector(".term[tabindex='0']")) button.tabIndex = 0;
  });
}

function describe(input) {
  const ids = (input.getAttribute("aria-describedby") || "").split(" ").filter(Boolean);
  input.setAttribute("aria-keyshortcuts", "F1");
  if (!ids.includes("glossary-key")) input.setAttribute("aria-describedby", [...ids, "glossary-key"].join(" "));
}

// What stands beside no field: the list, table or heading that it is in.
function groupOf(button) {
  return button.closest(".slider-field, .has-term") ? null : button.closest(".pairs, .scores, .dialled, .heading, dfn");
}

let waiting = 0;
function later() {
  if (!waiting) waiting = setTimeout(() => { waiting = 0; mark(); }, 300);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-place]");
  if (!button) return;
  event.preventDefault();
  open(button.dataset.place);
});
document.addEventListener("keydown", (event) => {
  if (dialog.open || event.ctrlKey || event.metaKey || event.altKey) return;
  const button = event.key === "F1" && event.target.closest(".slider-field, .has-term")?.querySelector(".term");
  if (button) { event.preventDefault(); open(button.dataset.place); }
  if (!event.target.matches(".term")) return;
  const terms = [...(groupOf(event.target)?.querySelectorAll(".term") || [])];
  const next = terms[terms.indexOf(event.target) + ({ ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key])];
  if (!next) return;
  event.preventDefault();
  terms.forEach((term) => { term.tabIndex = term === next ? 0 : -1; });
  next.focus();
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog || event.target.closest(".glossary-close")) dialog.close();
});
new MutationObserver(later).observe(document.body, { childList: true, subtree: true });
mark();
