// Starts the parts of the page, and copies command lines: live.js keeps it up to date, tables.js
// sorts and searches, chat.js chats, pictures.js makes pictures.
import "./chat.js";
import "./pictures.js";
import { copy, tell } from "./elements.js";
import { begin } from "./live.js";
import { arrange, makeSortable } from "./tables.js";

const body = document.body;

document.documentElement.classList.add("js");

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

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copyLine(button);
});
document.querySelectorAll("[data-sortable]").forEach(makeSortable);
document.querySelectorAll("tbody[data-live]").forEach(arrange);
begin();
