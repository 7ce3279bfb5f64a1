// Before and after in one image, parted by a line that moves by mouse, touch and arrow keys: a native range input
// lies over the image. value: {before, after, prompt} with PNG data URLs, or nothing yet.
const figure = element.querySelector("figure");
const [before, after] = element.querySelectorAll("img");
const range = element.querySelector("input");

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

// Small images are shown with their pixels; a large one that is shrunk would only look rough.
before.addEventListener("load", () => figure.classList.toggle("is-small", before.naturalWidth < 256));
range.addEventListener("input", move);
watch("value", show);
move();
show();
