// The glossary: a dialog, and a "?" (which CSS writes, so that it is no part of any text) beside every label, table head
// and fact that has an entry.
// props: entries, JSON text of [[words parted by commas, meaning]].
const dialog = element.querySelector("dialog");
const list = dialog.querySelector("dl");
// "λ₁" and "λ1" are the same word, and so are "H_o" and "H_o, top-1".
const plain = (text) => text.normalize("NFKC").trim().toLowerCase();
const entries = JSON.parse(props.entries);
const places = new Map(entries.flatMap(([words], i) => words.split(",").map((word) => [plain(word), i])));
const MARKED = ".slider-field label, .block [data-testid=block-info], .pairs dt, .scores thead th, "
  + ".heading h2";

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

function mark() {
  document.querySelectorAll(MARKED).forEach((node) => {
    const home = homeOf(node);
    if (!home || home.querySelector(":scope > .term")) return;
    const place = entryOf(node.textContent);
    if (place === undefined) return;
    const button = document.createElement("button");
    const word = node.textContent.trim();
    Object.assign(button, { type: "button", className: "term", title: entries[place][1] });
    button.setAttribute("aria-label", `What is ${word}?`);
    button.dataset.place = place;
    button.tabIndex = -1; // the header's button leads to the same entries, and a form has stops enough
    home.classList.toggle("has-term", home.matches(".block"));
    home.append(button);
  });
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
dialog.addEventListener("click", (event) => {
  if (event.target === dialog || event.target.closest(".glossary-close")) dialog.close();
});
new MutationObserver(later).observe(document.body, { childList: true, subtree: true });
mark();
