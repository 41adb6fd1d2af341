// A photo that is dropped anywhere on the page, or pasted.

export function watchDrop(onPhoto) {
  const take = ([file]) => file && onPhoto(file);
  for (const name of ["dragenter", "dragover"]) document.addEventListener(name, (event) => dragging(event, true));
  for (const name of ["dragleave", "drop"]) document.addEventListener(name, (event) => dragging(event, false));
  document.addEventListener("drop", (event) => take(event.dataTransfer.files));
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
}

function dragging(event, inside) {
  if (![...event.dataTransfer.types].includes("Files")) return;
  event.preventDefault();
  document.body.classList.toggle("dragging", inside);
}
