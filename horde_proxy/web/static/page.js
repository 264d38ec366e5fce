// Keeps the page up to date, sorts, searches and copies; chat.js chats, pictures.js makes pictures.
//
// The server draws everything. Elements with "data-live" get the content that the same element has
// in a newer page (page/live) or in an event (page/events). Only the server's templates make
// markup; what a model answers is set as text.
import "./chat.js";
import "./pictures.js";
import { $, copy, make, tell } from "./elements.js";

const REFRESH = 15000;
const body = document.body;
const drawn = {};    // the server's markup of each live element, by id
const sorting = {};  // the column and direction of each sorted table, by the id of its rows
let search = "";
let source = null;
let soon = 0;

document.documentElement.classList.add("js");

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

// Live elements.

function swap(html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  page.querySelectorAll("[data-live]").forEach(update);
}

function update(fresh) {
  const element = $(fresh.id);
  if (!element || drawn[fresh.id] === fresh.innerHTML) return;
  // A list that is open would be closed. It is updated when the focus has left it.
  if (element.options && element === document.activeElement) return;
  drawn[fresh.id] = fresh.innerHTML;
  const choice = element.value;
  const focus = element.contains(document.activeElement) && document.activeElement.dataset.focus;
  element.replaceChildren(...fresh.childNodes);
  element.hidden = fresh.hidden;
  if (element.options) {
    // Each option was selected for a moment while those before it were moved here.
    const index = [...element.options].findIndex((option) => option.value === choice);
    element.selectedIndex = Math.max(0, index);
  }
  if (element.rows) arrange(element);
  if (focus) element.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus();
}

// Tables.

function arrange(rows) {
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

function makeSortable(table) {
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

// Copying.

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const base = () => new URL("v1", document.baseURI).href;
const lines = {
  curl: (model) => {
    const chat = { model, messages: [{ role: "user", content: "Say hello." }] };
    const key = body.dataset.mode === "open" ? "" : ' -H "Authorization: Bearer $API_KEY"';
    return `curl ${quoted(`${base()}/chat/completions`)}${key}`
      + ` -H 'Content-Type: application/json' -d ${quoted(JSON.stringify(chat))}`;
  },
  opencode: (model) => `opencode run --model ${quoted(`horde/${model}`)} 'Say hello.'`,
};

async function copyLine(button) {
  const text = lines[button.dataset.copy](button.closest("tr").dataset.name);
  try {
    await copy(text);
    tell("copied", `Copied: ${text}`);
  } catch {
    tell("copied", `Copy this: ${text}`);
  }
}

// Keeping up to date.

async function refresh() {
  if (document.hidden) return;
  try {
    const response = await fetch("page/live", { cache: "no-store" });
    if (response.ok) {
      swap(await response.text());
      notice("");
    } else if (response.status === 401) {
      stopWatching();
      notice("You are no longer logged in. Load the page again to log in.");
    } else {
      notice("The proxy cannot show its state right now. This page may be out of date.");
    }
  } catch {
    notice("The proxy cannot be reached. This page may be out of date.");
  }
}

// When a request has started or ended, other parts of the page change, too.
function refreshSoon() {
  soon ||= setTimeout(() => { soon = 0; refresh(); }, 2000);
}

function watch() {
  const live = $("live");
  if (!live || source || document.hidden) return;
  source = new EventSource("page/events");
  source.onopen = () => { live.textContent = "live"; live.classList.add("on"); };
  source.onmessage = (event) => {
    const { length } = $("rows-running").rows;
    swap(JSON.parse(event.data).html);
    if ($("rows-running").rows.length !== length) refreshSoon();
  };
  source.onerror = () => {
    live.classList.remove("on");
    const isOver = source && source.readyState === EventSource.CLOSED;
    live.textContent = isOver ? "every 15 seconds" : "connecting again";
    if (isOver) { stopWatching(); setTimeout(watch, 2 * REFRESH); }
  };
}

function stopWatching() {
  source?.close();
  source = null;
  $("live")?.classList.remove("on");
}

$("search").addEventListener("input", () => {
  search = $("search").value.trim().toLowerCase();
  arrange($("rows-models"));
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copyLine(button);
});
document.querySelectorAll("[data-sortable]").forEach(makeSortable);
document.querySelectorAll("[data-live]").forEach((element) => {
  drawn[element.id] = element.innerHTML;
  if (element.rows) arrange(element);
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stopWatching();
  else { watch(); refresh(); }
});
setInterval(refresh, REFRESH);
refresh();
watch();
