// Training images under their masks, as buttons. value: list of { key, url, name, note, closed }.
const box = element.querySelector(".mask-grid");
let pressed = -1;

function tile({ key, url, name, note, closed }, index) {
  const button = document.createElement("button");
  const image = document.createElement("img");
  const title = document.createElement("b");
  const text = document.createElement("span");
  Object.assign(image, { src: url, alt: "" });
  title.textContent = name;
  text.textContent = note;
  button.type = "button";
  button.disabled = closed;
  button.append(image, title, text);
  button.addEventListener("click", () => {
    press(index);
    trigger("pick", { key });
  });
  return button;
}

function press(index) {
  pressed = index;
  [...box.children].forEach((other, i) => other.setAttribute("aria-pressed", String(i === index)));
}

function show() {
  const tiles = props.value || [];
  const focused = [...box.children].indexOf(document.activeElement);
  if (tiles.length !== box.children.length) pressed = -1;
  box.replaceChildren(...tiles.map(tile));
  press(pressed);
  box.children[focused]?.focus();
}

watch("value", show);
show();
