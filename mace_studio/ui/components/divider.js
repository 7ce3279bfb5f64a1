// Before and after in one image, parted by a line that moves by mouse, touch and arrow keys: a native range input
// lies over the image. value: {before, after, prompt} with PNG data URLs, or nothing yet.
const figure = element.querySelector("figure");
const [before, after] = element.querySelectorAll("img");
const range = element.querySelector("input");

const panes = [...element.querySelectorAll(".pane")];
const stage = element.querySelector(".divider-stage");
let timer = 0;

// "divider": one over the other; "sides": beside each other; "flicker": in turn, half a second each.
function view(name) {
  clearInterval(timer);
  figure.classList.remove("shows-before");
  if (name === "flicker") timer = setInterval(() => figure.classList.toggle("shows-before"), 500);
  figure.dataset.view = name;
  element.querySelectorAll("[data-view]").forEach((button) => {
    if (button !== figure) button.setAttribute("aria-pressed", String(button.dataset.view === name));
  });
}

function zoom(times) {
  stage.style.setProperty("--zoom", times);
  element.querySelectorAll("[data-zoom]").forEach((button) => {
    button.setAttribute("aria-pressed", String(button.dataset.zoom === times));
  });
}

function move() {
  figure.style.setProperty("--at", `${range.value}%`);
  range.setAttribute("aria-valuetext", `${range.value} % before, ${100 - range.value} % after`);
}

function show() {
  const pair = props.value || {};
  figure.classList.toggle("is-empty", !pair.before);
  range.disabled = !pair.before;
  if (!pair.before) return;
  before.src = pair.before;
  after.src = pair.after;
  before.alt = `Before erasing: ${pair.prompt}`;
  after.alt = `After erasing: ${pair.prompt}`;
}

// Side by side, both show the same part of what is enlarged.
panes.forEach((pane, i) => pane.addEventListener("scroll", () => {
  panes[1 - i].scrollTo(pane.scrollLeft, pane.scrollTop);
}));
// Small images are shown with their pixels; a large one that is shrunk would only look rough.
before.addEventListener("load", () => figure.classList.toggle("is-small", before.naturalWidth < 256));
range.addEventListener("input", move);
element.querySelectorAll("button").forEach((button) => button.addEventListener("click", () => {
  if (button.dataset.view) view(button.dataset.view); else zoom(button.dataset.zoom);
}));
watch("value", show);
view("divider");
zoom("1");
move();
show();
