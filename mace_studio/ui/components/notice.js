// What is wrong with the form: a sentence here and once more at the control it is about, which is marked and focused.
// value: {text, target}, target being a CSS selector.
const box = element.querySelector(".notice");
const FRAMES = ".concept-row, .slider-field, .block";

function clear() {
  box.textContent = "";
  document.querySelectorAll("[aria-invalid=true]").forEach((node) => node.removeAttribute("aria-invalid"));
  document.querySelectorAll(".field-problem").forEach((node) => node.remove());
}

function mark(target, text) {
  const sentence = document.createElement("p");
  sentence.className = "field-problem";
  sentence.textContent = text;
  (target.closest(FRAMES) || target.parentElement).append(sentence);
  target.setAttribute("aria-invalid", "true");
  // Emptying the value makes the same problem a change again, should it come back.
  target.addEventListener("input", () => { clear(); props.value = {}; }, { once: true });
  target.focus({ preventScroll: true });
  target.scrollIntoView({ block: "center" });
}

function show() {
  const { text, target } = props.value || {};
  clear();
  box.textContent = text || "";
  if (!target) return;
  const closed = document.querySelector("#advanced > button:not(.open)");
  if (!document.querySelector(target)?.offsetParent && closed) closed.click();
  setTimeout(() => { const found = document.querySelector(target); if (found) mark(found, text); }, 60);
}

watch("value", show);
