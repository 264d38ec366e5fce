// The list of conversations: search, choose, rename, delete, export. On a phone it is a drawer.
import { toMarkdown } from "./conversation.js";
import * as conversations from "./conversations.js";
import { dataUrlOf } from "./attachments.js";
import { $, make } from "./elements.js";

const MONTH = { day: "numeric", month: "short" };
const CLOCK = { hour: "2-digit", minute: "2-digit" };

function whenOf(time) {
  const date = new Date(time);
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], isToday ? CLOCK : MONTH);
}

// The list again; `current` is the id of the open conversation.
export function draw(current, onChoose) {
  const words = $("chats-search").value;
  const chats = conversations.list(words);
  $("chats-list").replaceChildren(...chats.map((chat) => {
    const button = make("button", { type: "button", ...(chat.id === current ? { "aria-current": "true" } : {}) },
      make("span", {}, chat.title || "New chat"), make("small", {}, whenOf(chat.updated)));
    button.addEventListener("click", () => onChoose(chat));
    return make("li", {}, button);
  }));
  $("chats-none").hidden = chats.length > 0;
  $("chats-none").textContent = words.trim() ? "No chat has these words." : "Your chats will be listed here.";
  $("chats-all").hidden = conversations.list().length === 0;
}

export function toggleDrawer(isOpen) {
  const before = $("chats").classList.contains("open");
  $("chats").classList.toggle("open", isOpen);
  $("chats-open").setAttribute("aria-expanded", String(isOpen));
  if (isOpen) $("chat-new").focus();
  else if (before) $("chats-open").focus();
}

function save(text, type, name) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// "Why is the sky blue?" -> "Why-is-the-sky-blue"
const fileName = (title) => title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "chat";

export function exportMarkdown(chat) {
  save(toMarkdown(chat), "text/markdown", `${fileName(chat.title)}.md`);
}

// Everything of the conversations, with their pictures as data URLs.
export async function exportJson(chats, name) {
  const whole = [];
  for (const chat of chats) {
    const nodes = {};
    for (const [id, node] of Object.entries(chat.nodes)) nodes[id] = { ...node, images: await withData(node.images) };
    whole.push({ ...chat, nodes });
  }
  const document = { format: "horde-proxy chats", version: 1, exported: new Date().toISOString(), chats: whole };
  save(JSON.stringify(document, null, 1), "application/json", `${fileName(name)}.json`);
}

function withData(images = []) {
  return Promise.all(images.map(async (image) => {
    const blob = await conversations.pictureOf(image);
    return { ...image, data: blob && await dataUrlOf(blob) };
  }));
}
