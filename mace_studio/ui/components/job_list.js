// The jobs of a user. value: [{id, title, state, actions: [...]}]. Every text is put in as text, never as markup.
const list = element.querySelector(".job-list");
const NAMES = { resume: "Go on", forget: "Forget", earlier: "Earlier", later: "Later", cancel: "Cancel" };

function button(job, action) {
  const made = document.createElement("button");
  Object.assign(made, { type: "button", textContent: NAMES[action] });
  made.dataset.key = `${action} ${job.id}`;
  made.setAttribute("aria-label", `${NAMES[action]}: ${job.title}`);
  made.addEventListener("click", () => {
    made.disabled = true;
    trigger("act", { id: job.id, action });
  });
  return made;
}

function row(job) {
  const made = document.createElement("li");
  const title = document.createElement("b");
  const state = document.createElement("span");
  const buttons = document.createElement("span");
  title.textContent = job.title;
  state.textContent = job.state;
  buttons.className = "job-buttons";
  buttons.append(...job.actions.map((action) => button(job, action)));
  made.append(title, state, buttons);
  return made;
}

function show() {
  const jobs = props.value || [];
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  list.replaceChildren(...jobs.map(row));
  list.classList.toggle("is-empty", !jobs.length);
  if (focused) [...list.querySelectorAll("button")].find((one) => one.dataset.key === focused)?.focus();
}

watch("value", show);
show();
