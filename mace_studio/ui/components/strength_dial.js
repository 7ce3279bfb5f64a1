// One dial from -2 (gentle) to 2 (thorough). value: a whole number.
const range = element.querySelector("input");
const names = ["much gentler", "gentler", "as the recipe has it", "more thorough", "much more thorough"];

function show() {
  range.value = props.value || 0;
  range.setAttribute("aria-valuetext", names[Number(range.value) + 2]);
}

range.addEventListener("input", () => {
  props.value = Number(range.value);
  show();
  trigger("turned");
});
watch("value", show);
show();
