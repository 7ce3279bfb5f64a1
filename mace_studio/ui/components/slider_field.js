// A number as text and a slider for it. The text is the value; the slider only writes into it.
// props: low, high (exponents of ten when log), step (of the slider), log, off (the slider's left end is 0).
const number = element.querySelector("input[type=text]");
const range = element.querySelector("input[type=range]");
const below = props.off ? props.low - props.step : props.low;

function numberAt(place) {
  if (props.off && place < props.low - props.step / 2) return 0;
  return props.log ? Number((10 ** place).toPrecision(2)) : Number(place.toPrecision(12));
}

function placeOf(value) {
  if (!(value > 0) && props.log) return below;
  return Math.min(props.high, Math.max(props.low, props.log ? Math.log10(value) : value));
}

function textOf(value) {
  return value > 0 && value < 0.001 ? value.toExponential().replace("e+", "e") : String(value);
}

function showPlace() {
  const value = Number(number.value);
  if (number.value.trim() !== "" && !Number.isNaN(value)) range.value = placeOf(value);
  range.setAttribute("aria-valuetext", number.value);
  range.style.setProperty("--filled", `${(100 * (range.value - below)) / (props.high - below)}%`);
}

function show() {
  if (document.activeElement !== number || number.value !== props.value) number.value = props.value;
  showPlace();
}

Object.assign(range, { min: below, max: props.high, step: props.step });
number.addEventListener("input", () => { showPlace(); props.value = number.value; });
range.addEventListener("input", () => {
  number.value = textOf(numberAt(Number(range.value)));
  showPlace();
  props.value = number.value;
});
watch("value", show);
show();
