// Prompts to choose from, as buttons by role. value: list of [role, prompt]. props: field, the selector of a text field.
const box = element.querySelector(".suggestions");
const titles = { erased: "Erased", synonym: "Synonyms", kept: "Kept" };

// Here and not on the server, whose answer would undo what is typed or pressed until it comes.
function add(prompt) {
  const field = document.querySelector(props.field);
  const lines = field.value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (lines.includes(prompt)) return;
  field.value = [...lines, prompt].join("\n");
  field.dispatchEvent(new Event("input", { bubbles: true }));
}

function buttonFor([role, prompt]) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: `chip suggestion is-${role}`, textContent: prompt });
  button.addEventListener("click", () => add(prompt));
  return button;
}

function show() {
  const pairs = props.value || [];
  const groups = Object.keys(titles).map((role) => {
    const group = document.createElement("div");
    const title = document.createElement("span");
    title.textContent = titles[role];
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", `${titles[role]}: suggested prompts`);
    group.append(title, ...pairs.filter((pair) => pair[0] === role).map(buttonFor));
    return group;
  });
  box.replaceChildren(...groups.filter((group) => group.children.length > 1));
}

watch("value", show);
show();
