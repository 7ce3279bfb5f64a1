// The jobs of a user. value: [{id, title, state, actions: [...]}]. Every text is put in as text, never as markup.
const list = element.querySelector(".job-list");
const SETTLED = 500; // milliseconds after which a press means what is under the pointer by then
let last = {}; // what was pressed last, and where
let moved = 0; // when rows last changed places
const NAMES = { resume: "Go on", forget: "Forget", earlier: "Earlier", later: "Later", cancel: "Cancel" };

function button(job, action) {
  const made = document.createElement("button");
  Object.assign(made, { type: "button", textContent: NAMES[action] });
  made.dataset.key = `${action} ${job.id}`;
  made.setAttribute("aria-label", `${NAMES[action]}: ${job.title}`);
  made.addEventListener("click", (event) => {
    // Where the rows have just moved under the pointer, a second press in its place means the job of the first.
    const again = event.clientX === last.x && event.clientY === last.y && performance.now() - moved < SETTLED;
    if (again && action !== last.action) return;
    if (!again) last = { id: job.id, action, x: event.clientX, y: event.clientY };
    made.disabled = !again && !["earlier", "later"].includes(action);
    trigger("act", { id: last.id, action });
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
  made.dataset.id = job.id;
  buttons.className = "job-buttons";
  buttons.append(...job.actions.map((action) => button(job, action)));
  made.append(title, state, buttons);
  return made;
}

function show() {
  const jobs = props.value || [];
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const places = () => [...list.children].map((one) => one.dataset.id).join();
  const before = places();
  list.replaceChildren(...jobs.map(row));
  if (places() !== before) moved = performance.now();
  list.classList.toggle("is-empty", !jobs.length);
  if (focused) [...list.querySelectorAll("button")].find((one) => one.dataset.key === focused)?.focus();
}

watch("value", show);
show();
