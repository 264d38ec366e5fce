// Keeps the page up to date. The server draws everything, and sends only what has changed: whole
// elements with "data-live", and rows of tables (page/live every 15 seconds, page/events at once).
// A hidden tab asks for nothing. Only the server's templates make this markup.
import { $ } from "./elements.js";
import { arrange, countOn } from "./tables.js";

const REFRESH = 15000;
let version = document.body.dataset.version;
let source = null;
let soon = 0;
const listeners = [];

// Call a function after each change of the rows of a table, by the id of these rows.
export function onRows(id, listener) {
  listeners.push({ id, listener });
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

const parse = (html) => new DOMParser().parseFromString(html, "text/html");

// The element of this place that has the focus is found again in the new markup by its name.
function keepingFocus(element, change) {
  const focus = element.contains(document.activeElement) && document.activeElement.dataset.focus;
  change();
  if (focus) element.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus();
}

function replace(fresh) {
  const element = $(fresh.id);
  if (!element) return true;
  // A list that is open would be closed. It is updated when the focus has left it.
  if (element.options && element === document.activeElement) return false;
  const choice = element.value;
  keepingFocus(element, () => element.replaceChildren(...fresh.childNodes));
  element.hidden = fresh.hidden;
  if (element.options) {
    // Each option was selected for a moment while those before it were moved here.
    const index = [...element.options].findIndex((option) => option.value === choice);
    element.selectedIndex = Math.max(0, index);
  }
  if (element.rows) arrange(element);
  return true;
}

function replaceRows(id, { keys, changed }) {
  const rows = $(id);
  if (!rows) return;
  const byKey = new Map([...rows.rows].map((row) => [row.dataset.name, row]));
  const page = parse(`<table><tbody>${changed.join("")}</tbody></table>`);
  for (const row of page.querySelectorAll("tbody > tr")) byKey.set(row.dataset.name, row);
  const wanted = keys.map((key) => byKey.get(key)).filter(Boolean);
  keepingFocus(rows, () => {
    const isSame = wanted.length === rows.rows.length
      && wanted.every((row, index) => row === rows.rows[index]);
    if (!isSame) rows.replaceChildren(...wanted);
  });
  arrange(rows);
  for (const entry of listeners) if (entry.id === id) entry.listener();
}

// Whether all of it could be shown now.
function show({ elements = [], rows = {} }) {
  const fresh = [...parse(elements.join("")).querySelectorAll("[data-live]")];
  const isComplete = fresh.map(replace).every(Boolean);
  for (const [id, change] of Object.entries(rows)) replaceRows(id, change);
  countOn();
  return isComplete;
}

async function refresh() {
  if (document.hidden) return;
  try {
    // The query says which horde and model the week's charts show.
    const query = new URLSearchParams(location.search);
    query.set("since", version);
    const response = await fetch(`page/live?${query}`, { cache: "no-store" });
    if (response.ok) {
      const changes = await response.json();
      // What could not be shown now is asked for again, by the version before it.
      if (show(changes)) ({ version } = changes);
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
    show(JSON.parse(event.data));
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

export function begin() {
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stopWatching();
    else { watch(); refresh(); }
  });
  setInterval(refresh, REFRESH);
  setInterval(() => { if (!document.hidden) countOn(); }, 1000);
  refresh();
  watch();
}
