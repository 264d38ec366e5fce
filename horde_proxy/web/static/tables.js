// The tables of the page: sorting, searching, and times in the reader's own zone.
import { durationOf } from "./durations.js";
import { $, make, tell } from "./elements.js";

const sorting = {};  // the column and direction of each sorted table, by the id of its rows
let search = "";

// Sort and search a table's rows again, after they have changed.
export function arrange(rows) {
  const all = [...rows.rows];
  sort(rows, all);
  rows.querySelectorAll("time:not([title])").forEach(showLocally);
  const isSearched = rows.id === "rows-models";
  if (isSearched) {
    for (const row of all) row.hidden = !row.dataset.name.toLowerCase().includes(search);
  }
  const shown = all.filter((row) => !row.hidden).length;
  const empty = $(rows.id.replace("rows-", "empty-"));
  empty.textContent = all.length ? "No match." : empty.dataset.empty;
  empty.hidden = shown > 0;
  if (isSearched) {
    const total = `${all.length} model${all.length === 1 ? "" : "s"}`;
    tell("found", search ? `${shown} of ${all.length}` : total);
  }
}

function sort(rows, all) {
  const order = sorting[rows.id];
  if (!order) return;
  const value = (row) => row.cells[order.column].dataset.value;
  const compare = order.isNumber
    ? (a, b) => a - b
    : (a, b) => a.localeCompare(b, undefined, { numeric: true });
  all.sort((a, b) => order.sign * compare(value(a), value(b)));
  rows.append(...all);
}

function showLocally(time) {
  time.title = time.textContent;
  time.textContent = new Date(time.dateTime).toLocaleString([], {
    day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit",
  });
}

export function makeSortable(table) {
  const rows = table.tBodies[0];
  table.querySelectorAll("thead th:not(.js-only)").forEach((th, column) => {
    const button = make("button", { type: "button" }, th.textContent);
    button.addEventListener("click", () => {
      const before = sorting[rows.id];
      const isNumber = th.classList.contains("number");
      const isSame = before?.column === column;
      const sign = isSame ? -before.sign : isNumber ? -1 : 1;
      sorting[rows.id] = { column, isNumber, sign };
      table.querySelectorAll("thead th").forEach((head) => head.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      arrange(rows);
    });
    th.replaceChildren(button);
  });
}

// The server sends a running time only once. `arrived` is when, by this browser's clock (ms).
export function countOn() {
  for (const span of document.querySelectorAll("[data-elapsed]")) {
    span.dataset.arrived ||= String(performance.now());
    const passed = (performance.now() - Number(span.dataset.arrived)) / 1000;
    span.textContent = durationOf(Math.floor(Number(span.dataset.elapsed) + passed));
  }
}

$("search").addEventListener("input", () => {
  search = $("search").value.trim().toLowerCase();
  arrange($("rows-models"));
});
