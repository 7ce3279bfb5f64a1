// Simple or Expert; remembered by the browser, Simple at first.
const KEY = "mace-mode";
const buttons = [...element.querySelectorAll("button")];

function choose(mode) {
  document.body.classList.toggle("is-simple", mode === "simple");
  buttons.forEach((button) => {
    button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
    button.tabIndex = button.dataset.mode === mode ? 0 : -1; // one stop; arrow keys go to the other
  });
}

function remembered() {
  try { return localStorage.getItem(KEY); } catch { return null; }
}

buttons.forEach((button) => button.addEventListener("click", () => {
  choose(button.dataset.mode);
  try { localStorage.setItem(KEY, button.dataset.mode); } catch { /* a browser that keeps nothing */ }
}));
element.addEventListener("keydown", (event) => {
  if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
  buttons.find((button) => button !== document.activeElement).focus();
});
choose(remembered() === "expert" ? "expert" : "simple");
