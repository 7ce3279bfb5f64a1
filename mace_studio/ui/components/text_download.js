// Hands a text to the browser as a file. value: {name, text, count}; the count makes each save a change.
watch("value", () => {
  if (!props.value.name) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([props.value.text], { type: "application/json" }));
  link.download = props.value.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
