// The first steps. They go for good when they are dismissed, or when an erasure was begun.
const KEY = "mace-first-run";
const box = element.querySelector(".first-run");

function remembered() {
  try { return localStorage.getItem(KEY); } catch { return "done"; }
}

function dismiss() {
  if (box.hidden) return;
  box.hidden = true;
  try { localStorage.setItem(KEY, "done"); } catch { /* a browser that keeps nothing */ }
}

box.hidden = remembered() === "done";
box.querySelector(".first-close").addEventListener("click", dismiss);
box.querySelectorAll("[data-to]").forEach((button) => button.addEventListener("click", () => {
  const field = document.querySelector(button.dataset.to);
  field?.scrollIntoView({ block: "center" });
  field?.focus({ preventScroll: true });
}));
document.addEventListener("click", (event) => { if (event.target.closest?.("#erase")) dismiss(); });
