// The choice of a model: a combobox with a list, by the pattern of WAI-ARIA's practices guide, for
// keys, mouse and finger. The models are those of the page's table, with what that says of them.
import { $, make } from "./elements.js";
import { onRows } from "./live.js";

const AUTOMATIC = [
  { name: "auto", facts: "a good model that answers soon" },
  { name: "fast", facts: "the quickest of them" },
];
const KEY = `horde-proxy model of ${document.body.dataset.visitor || "anybody"}`;

const box = $("chat-model");
const popup = $("chat-models");
let models = [];
let chosen = "auto";
let active = -1;  // the index of the option that Enter takes; -1: none

// Columns of the table: name, workers, tokens/s, queue, context, expected, endpoints.
function factsOf(row) {
  const cells = [...row.cells].map((cell) => cell.textContent.trim());
  const [, workers, speed, , context, expected, endpoints] = cells;
  const isKnown = (text) => text && text !== "–";
  return [
    isKnown(expected) && `about ${expected}`,
    isKnown(speed) && `${speed} tokens/s`,
    isKnown(workers) && `${workers} worker${workers === "1" ? "" : "s"}`,
    isKnown(context) && `context ${context}`,
    endpoints,
  ].filter(Boolean).join(" · ");
}

function load() {
  const rows = [...$("rows-models").querySelectorAll("tr[data-chat]")];
  const offered = rows.map((row) => ({ name: row.dataset.name, facts: factsOf(row) }));
  offered.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
  models = [...(offered.length ? AUTOMATIC : []), ...offered];
  $("chat-models-missing").hidden = offered.length > 0;
  if (!popup.hidden) draw();
}

export const model = () => chosen;

// Choose a model by its name. One that is gone stays: the answer then says what is near to it.
export function choose(name) {
  chosen = name || "auto";
  box.value = chosen;
  box.title = models.find((one) => one.name === chosen)?.facts || "";
}

// The model that was chosen last, for a new chat.
export function lastModel() {
  try { return localStorage.getItem(KEY) || "auto"; } catch { return "auto"; }
}

function remember(name) {
  try { localStorage.setItem(KEY, name); } catch { /* this browser forbids it */ }
}

// All models while the name of the chosen one stands there, so that the others can be seen.
function matching() {
  const text = box.value.trim().toLowerCase();
  if (!text || text === chosen.toLowerCase()) return models;
  const words = text.split(/\s+/);
  return models.filter(({ name }) => words.every((word) => name.toLowerCase().includes(word)));
}

function draw() {
  const options = matching().map(({ name, facts }, index) => make("li", {
    role: "option", id: `chat-model-${index}`, "aria-selected": String(name === chosen), "data-name": name,
  }, make("span", {}, name), make("small", {}, facts)));
  popup.replaceChildren(...options);
  $("chat-models-count").textContent = options.length ? `${options.length} models` : "No model has such a name.";
  popup.classList.toggle("empty-list", !options.length);
  mark(-1);
}

function mark(index) {
  popup.children[active]?.classList.remove("active");
  active = index;
  const option = popup.children[index];
  option?.classList.add("active");
  if (option) show(option);
  if (option) box.setAttribute("aria-activedescendant", option.id);
  else box.removeAttribute("aria-activedescendant");
}

// scrollIntoView would scroll the page, too.
function show({ offsetTop, offsetHeight }) {
  const end = offsetTop + offsetHeight - popup.clientHeight;
  popup.scrollTop = Math.min(Math.max(popup.scrollTop, end), offsetTop);
}

function open() {
  if (!popup.hidden) return;
  popup.hidden = false;
  box.setAttribute("aria-expanded", "true");
  draw();
  mark([...popup.children].findIndex((option) => option.dataset.name === chosen));
}

function close() {
  popup.hidden = true;
  box.setAttribute("aria-expanded", "false");
  mark(-1);
  box.value = chosen;
}

function take(option) {
  choose(option.dataset.name);
  remember(chosen);
  close();
  box.dispatchEvent(new Event("change"));
}

const keys = {
  ArrowDown: () => mark(Math.min(active + 1, popup.children.length - 1)),
  ArrowUp: () => mark(Math.max(active - 1, 0)),
  PageDown: () => mark(Math.min(active + 10, popup.children.length - 1)),
  PageUp: () => mark(Math.max(active - 10, 0)),
  // The only model that fits is meant, also without going down to it.
  Enter: () => {
    const option = popup.children[active] || popup.children[0];
    if (option) take(option);
  },
};

box.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Escape" && !popup.hidden) {
    event.preventDefault();
    close();
  } else if (event.key === "Tab") close();
  else if (keys[event.key]) {
    event.preventDefault();
    if (popup.hidden) open();
    else keys[event.key]();
  }
});
box.addEventListener("input", () => { if (popup.hidden) open(); else draw(); if (box.value.trim()) mark(0); });
box.addEventListener("click", open);
box.addEventListener("focus", () => box.select());
box.addEventListener("blur", close);
// The box keeps the focus while an option is pressed.
popup.addEventListener("mousedown", (event) => event.preventDefault());
popup.addEventListener("click", (event) => {
  const option = event.target.closest("[role=option]");
  if (option) take(option);
});
onRows("rows-models", load);
load();
choose(lastModel());
