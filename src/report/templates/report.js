"use strict";
(() => {
  const sections = [...document.querySelectorAll("details.class, details.slice")];
  const names = new Intl.Collator(undefined, { numeric: true });

  // ---- tables: sorting and finding
  function sortBy(table, column) {
    const headers = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    const header = headers[column];
    const first = header.dataset.first || "descending";
    const now = header.getAttribute("aria-sort");
    const order = now ? (now === "ascending" ? "descending" : "ascending") : first;
    headers.forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const isNumber = header.matches(".n, [data-number]");
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
  for (const table of document.querySelectorAll(".sortable")) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      header.querySelector("button").addEventListener("click", () => sortBy(table, column));
    });
  }

  for (const find of document.querySelectorAll(".find")) {
    const { rows } = document.getElementById(find.dataset.table).tBodies[0];
    const told = find.closest(".tools").querySelector("[role=status]");
    find.addEventListener("input", () => {
      const wanted = find.value.trim().toLowerCase();
      let count = 0;
      for (const row of rows) {
        row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
        count += !row.hidden;
      }
      told.textContent = wanted ? `${count} of ${rows.length}` : "";
    });
  }

  // ---- sections
  function openTarget() {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (!target || !sections.includes(target)) return;
    target.open = true;
    target.scrollIntoView();
  }
  addEventListener("hashchange", openTarget);
  openTarget();
  for (const button of document.querySelectorAll(".all")) {
    const [kind, state] = button.value.split(":");
    button.addEventListener("click", () => {
      sections.filter((section) => section.matches(`.${kind}`)).forEach((section) => { section.open = state === "open"; });
    });
  }
  // On paper nothing can be opened: print all of a short report, and of a long one what is open.
  let opened = [];
  addEventListener("beforeprint", () => {
    if (sections.length > 30) return;
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((folded) => { folded.open = true; });
    document.querySelectorAll("img[loading]").forEach((image) => { image.loading = "eager"; });
  });
  addEventListener("afterprint", () => opened.splice(0).forEach((folded) => { folded.open = false; }));

  // ---- enlarging
  const dialog = document.getElementById("enlarged");
  const [large] = dialog.getElementsByTagName("img");
  const [caption] = dialog.getElementsByTagName("p");
  const file = document.getElementById("file");
  const path = file.querySelector("code");
  const copied = file.querySelector("[role=status]");
  let shown = null;

  function show(button) {
    const image = button.querySelector("img");
    shown = button;
    large.src = image.src;
    large.alt = image.alt;
    large.className = image.className;
    caption.textContent = image.alt;
    file.hidden = !button.dataset.path;
    path.textContent = button.dataset.path || "";
    copied.textContent = "";
    if (!dialog.open) dialog.showModal();
  }
  function step(by) {
    const buttons = [...shown.closest(".gallery").querySelectorAll("button")];
    const next = buttons[buttons.indexOf(shown) + by];
    if (next) show(next);
  }
  async function copyPath() {
    try {
      await navigator.clipboard.writeText(path.textContent);
      copied.textContent = "copied";
    } catch {
      // No clipboard for this page: what is selected can be copied by key.
      getSelection().selectAllChildren(path);
      copied.textContent = "selected";
    }
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".gallery button");
    if (button) show(button);
  });
  dialog.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && button.id === "copy") copyPath();
    else if (button && button.value !== "0") step(Number(button.value));
    // A click beside the image's box lands on the dialog itself.
    else if (button || event.target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("close", () => shown.focus());
})();
