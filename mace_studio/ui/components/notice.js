// What is wrong with the form: a sentence here and once more at the control it is about, which is marked and focused.
// value: {text, target}, target being a CSS selector. It goes when the control is changed or leaves the page, and what is
// said of concepts and of what is kept, or of a file of them, at any edit of either, whichever button made it.
const box = element.querySelector(".notice");
const FRAMES = ".concept-row, .slider-field, .block";
const LISTS = "#concepts-card, #keep-card";
let marked = null;

function clear() {
  marked = null;
  gone.disconnect();
  box.textContent = "";
  document.querySelectorAll("[aria-invalid=true]").forEach((node) => node.removeAttribute("aria-invalid"));
  document.querySelectorAll(".field-problem").forEach((node) => node.remove());
}

// Emptying the value makes the same problem a change again, should it come back.
function mended() {
  clear();
  props.value = {};
}

const gone = new MutationObserver(() => { if (marked && !marked.isConnected) mended(); });
document.addEventListener("lists-edited", () => {
  if (marked?.closest(LISTS)) mended();
  if (!box.textContent || !element.closest(LISTS)) return; // of a file
  box.textContent = "";
  props.value = {};
});

function mark(target, text) {
  const sentence = document.createElement("p");
  sentence.className = "field-problem";
  sentence.textContent = text;
  (target.closest(FRAMES) || target.parentElement).append(sentence);
  target.setAttribute("aria-invalid", "true");
  marked = target;
  gone.observe(document.body, { childList: true, subtree: true });
  target.addEventListener("input", mended, { once: true });
  target.focus({ preventScroll: true });
  target.scrollIntoView({ block: "center" });
}

function show() {
  const { text, target } = props.value || {};
  clear();
  box.textContent = text || "";
  box.classList.toggle("is-marked", Boolean(target));
  if (!target) return;
  const closed = document.querySelector("#advanced > button:not(.open)");
  if (!document.querySelector(target)?.offsetParent && closed) closed.click();
  setTimeout(() => { const found = document.querySelector(target); if (found) mark(found, text); }, 60);
}

watch("value", show);
