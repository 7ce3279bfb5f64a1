// Suggestions as buttons. value: {title, texts: [text], picks: [what each stands for]}, or nothing.
const box = element.querySelector(".chips");

function show() {
  const { title = "", texts = [] } = props.value || {};
  const focused = [...box.querySelectorAll("button")].indexOf(document.activeElement);
  const buttons = texts.map((text, index) => {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "chip", textContent: text });
    button.addEventListener("click", () => trigger("pick", { pick: props.value.picks[index] }));
    return button;
  });
  box.replaceChildren(...(texts.length ? [title, ...buttons] : []));
  buttons[Math.min(focused, buttons.length - 1)]?.focus();
}

watch("value", show);
show();
