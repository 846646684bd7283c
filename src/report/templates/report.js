"use strict";
(() => {
  const sections = [...document.querySelectorAll("details.class")];

  // ---- the overview: sorting and finding
  const table = document.getElementById("classes");
  const headers = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const names = new Intl.Collator(undefined, { numeric: true });

  function sortBy(column) {
    const header = headers[column];
    const first = header.dataset.first || "descending";
    const now = header.getAttribute("aria-sort");
    const order = now ? (now === "ascending" ? "descending" : "ascending") : first;
    headers.forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const isNumber = header.classList.contains("n");
    const keyed = [...body.rows].map((row) => {
      const cell = row.cells[column];
      return [isNumber ? parseFloat(cell.dataset.value) : cell.textContent, row];
    });
    keyed.sort(([a], [b]) => {
      if (!isNumber) return sign * names.compare(a, b);
      // What has no number comes last in either order.
      return Number.isNaN(a) || Number.isNaN(b) ? Number.isNaN(a) - Number.isNaN(b) : sign * (a - b);
    });
    body.append(...keyed.map(([, row]) => row));
  }
  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => sortBy(column)));

  const find = document.getElementById("find");
  find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    let count = 0;
    for (const row of body.rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      count += !row.hidden;
    }
    document.getElementById("found").textContent = wanted ? `${count} of ${body.rows.length}` : "";
  });

  // ---- sections
  function openTarget() {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (!target || !target.matches("details.class")) return;
    target.open = true;
    target.scrollIntoView();
  }
  addEventListener("hashchange", openTarget);
  openTarget();
  document.getElementById("open-all").addEventListener("click", () => sections.forEach((section) => { section.open = true; }));
  document.getElementById("close-all").addEventListener("click", () => sections.forEach((section) => { section.open = false; }));
  // On paper nothing can be opened: print all of a short report, and of a long one what is open.
  let opened = [];
  addEventListener("beforeprint", () => {
    if (sections.length > 30) return;
    opened = sections.filter((section) => !section.open);
    opened.forEach((section) => { section.open = true; });
    document.querySelectorAll("img[loading]").forEach((image) => { image.loading = "eager"; });
  });
  addEventListener("afterprint", () => opened.splice(0).forEach((section) => { section.open = false; }));

  // ---- enlarging
  const dialog = document.getElementById("enlarged");
  const [large] = dialog.getElementsByTagName("img");
  const [caption] = dialog.getElementsByTagName("p");
  let shown = null;

  function show(button) {
    const image = button.querySelector("img");
    shown = button;
    large.src = image.src;
    large.alt = image.alt;
    large.className = image.className;
    caption.textContent = image.alt;
    if (!dialog.open) dialog.showModal();
  }
  function step(by) {
    const buttons = [...shown.closest(".gallery").querySelectorAll("button")];
    const next = buttons[buttons.indexOf(shown) + by];
    if (next) show(next);
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".gallery button");
    if (button) show(button);
  });
  dialog.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && button.value !== "0") step(Number(button.value));
    // A click beside the image's box lands on the dialog itself.
    else if (button || event.target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("close", () => shown.focus());
})();
