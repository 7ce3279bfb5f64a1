// A list of phrases: chips that can be removed, and an input that adds one at Enter and many at a paste.
// value: list of texts, which only ever become text. props: name, of the list; vocabulary: as of the table of concepts.
const list = element.querySelector("ul");
const input = element.querySelector("input");
const question = element.querySelector(".phrase-ask");
let asked = []; // what was pasted, until the question is answered
let words = null;
const phrases = () => props.value || [];
input.setAttribute("aria-label", props.name);

function chip(phrase, i) {
  const item = document.createElement("li");
  const text = document.createElement("span");
  const remove = document.createElement("button");
  text.textContent = phrase;
  Object.assign(remove, { type: "button", textContent: "×" });
  remove.setAttribute("aria-label", `Remove ${phrase}`);
  remove.tabIndex = i === 0 ? 0 : -1;
  remove.addEventListener("click", () => {
    set(phrases().filter((_, j) => j !== i));
    go(Math.min(i, list.children.length - 1));
  });
  item.append(text, remove);
  const unknown = words && (phrase.toLowerCase().match(/\p{L}+/gu) || []).some((word) => !words.has(word));
  item.classList.toggle("is-unknown", Boolean(unknown));
  return item;
}

// The Tab key stops once at all chips; arrow keys go from one to the next.
function go(i) {
  const buttons = [...list.querySelectorAll("button")];
  buttons.forEach((button, j) => { button.tabIndex = j === i ? 0 : -1; });
  (buttons[i] || input).focus();
}

list.addEventListener("keydown", (event) => {
  const buttons = [...list.querySelectorAll("button")];
  const at = buttons.indexOf(document.activeElement);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (to === undefined || !buttons[to]) return;
  event.preventDefault();
  go(to);
});
element.closest("#preserve")?.addEventListener("clear-list", () => set([]));
element.closest("#preserve")?.addEventListener("suggested", ({ detail }) => add([detail]));
element.closest("#preserve")?.addEventListener("added", ({ detail }) => add(detail));

// What is set here is not told to `watch`.
function set(value) {
  props.value = value;
  show();
}

function add(more) {
  const fresh = more.map((phrase) => phrase.trim()).filter((phrase) => phrase && !phrases().includes(phrase));
  if (fresh.length) set([...phrases(), ...new Set(fresh)]);
}

function take() {
  add([input.value]);
  input.value = "";
}

input.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter") { event.preventDefault(); take(); }
  if (event.key === "Backspace" && !input.value) set(phrases().slice(0, -1));
});
input.addEventListener("change", take);
// Lines are phrases, and so are parts of one line between semicolons or tabs. A comma may part phrases or stand in one.
input.addEventListener("paste", (event) => {
  const lines = event.clipboardData.getData("text").split(/[\r\n]+/).filter((line) => line.trim());
  const parts = (lines.length > 1 ? lines : lines.join("").split(/[;\t]/)).map((part) => part.replace(/^[,\s]+|[,\s]+$/g, ""));
  const unclear = parts.find((part) => part.includes(","));
  if (parts.length < 2 && !unclear) return;
  event.preventDefault();
  if (unclear) ask(parts, unclear); else add(parts);
});

function ask(parts, unclear) {
  asked = parts;
  question.querySelector("span").textContent = `How is “${unclear.slice(0, 60)}” meant?`;
  question.hidden = false;
  question.querySelector("button").focus();
}

question.addEventListener("click", ({ target }) => {
  if (!target.matches("button")) return;
  if (target.value === "several") add(asked.flatMap((part) => part.split(",")));
  if (target.value === "one") add(asked);
  question.hidden = true;
  input.focus();
});

function show() {
  list.replaceChildren(...phrases().map(chip));
  list.hidden = !list.children.length;
  element.querySelector(".phrase-warning").hidden = !list.querySelector(".is-unknown");
  document.dispatchEvent(new Event("lists-edited")); // to components/notice.js
}

function learn() {
  const read = JSON.parse(props.vocabulary);
  words = read.words && new Set(read.words);
  show();
}

watch("value", show);
watch("vocabulary", learn);
learn();
