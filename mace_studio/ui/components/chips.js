// Suggestions as buttons. value: {title, texts: [text], picks: [what each stands for]}, or nothing. props: taker, the
// selector of what takes a pressed one: here and not on the server, whose answer would undo what is typed until it comes.
const box = element.querySelector(".chips");

function show() {
  const { title = "", texts = [] } = props.value || {};
  const focused = [...box.querySelectorAll("button")].indexOf(document.activeElement);
  const buttons = texts.map((text, index) => {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "chip", textContent: text });
    button.tabIndex = index ? -1 : 0;
    button.addEventListener("click", () => {
      document.querySelector(props.taker).dispatchEvent(new CustomEvent("suggested", { detail: props.value.picks[index] }));
    });
    return button;
  });
  box.replaceChildren(...(texts.length ? [title, ...buttons] : []));
  buttons[Math.min(focused, buttons.length - 1)]?.focus();
}

// The Tab key stops once at all of them; arrow keys go from one to the next.
box.addEventListener("keydown", (event) => {
  const buttons = [...box.querySelectorAll("button")];
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const next = step && buttons[buttons.indexOf(document.activeElement) + step];
  if (!next) return;
  buttons.forEach((button) => { button.tabIndex = button === next ? 0 : -1; });
  next.focus();
  event.preventDefault();
});
watch("value", show);
show();
