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
  button.addEventListener("click", async () => {
    press(index);
    await editorReady();
    trigger("pick", { key });
  });
  return button;
}

// Gradio's editor, whose tools are there once it is ready, loads an image that it gets before that twice (6.31). Where it
// never is, as in a browser without WebGL, the buttons under it are still of use.
async function editorReady() {
  const latest = Date.now() + 5000;
  while (!document.querySelector("#mask-editor .toolbar-wrap") && Date.now() < latest) {
    await new Promise((resume) => setTimeout(resume, 50));
  }
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
