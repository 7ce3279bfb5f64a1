// The button that switches between light and dark.
element.querySelector("button").addEventListener("click", () => {
  document.body.classList.toggle("dark");
});
