// The choice of a preset. value: its name, or "". props: groups, JSON text of [{label, options: [[name, title]]}].
const select = element.querySelector("select");

function build() {
  const groups = JSON.parse(props.groups).map(({ label, options }) => {
    const group = Object.assign(document.createElement("optgroup"), { label });
    group.append(...options.map(([name, title]) => new Option(title, name)));
    return group;
  });
  select.replaceChildren(select.options[0], ...groups);
  show();
}

function show() {
  select.value = props.value || "";
}

select.addEventListener("change", () => { props.value = select.value; });
watch("value", show);
watch("groups", build);
build();
