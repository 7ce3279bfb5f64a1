// The button that switches between light and dark, and remembers which; and the way past all settings by keyboard.
const KEY = "mace-theme";

try {
  const chosen = localStorage.getItem(KEY);
  if (chosen && !new URLSearchParams(location.search).has("__theme")) {
    document.body.classList.toggle("dark", chosen === "dark");
  }
} catch { /* a browser that keeps nothing */ }

element.querySelector(".chip[aria-label]").addEventListener("click", () => {
  const dark = document.body.classList.toggle("dark");
  try { localStorage.setItem(KEY, dark ? "dark" : "light"); } catch { /* the same */ }
});

element.querySelector(".skip").addEventListener("click", () => {
  const main = [...document.querySelectorAll(".run-buttons button.primary")].find((button) => button.offsetParent);
  main?.focus();
  main?.scrollIntoView({ block: "center" });
});
