// A conversation as a tree: another answer to a question, and another wording of a question, stand
// beside the first ones. Pure: it knows neither the page nor where conversations are kept.
//
//   { id, title, created, updated, settings: { model, system, temperature, maxTokens },
//     nodes: { id: node }, chosen: { id of a node, or "" for the beginning: id of the next one } }
//   node: { id, parent, role, content, created, images: [{ id, name, type }], and of an answer:
//           model, endpoint, reasoning, reasoningSeconds, warnings, error, isDropped,
//           state: "waiting" while it is written, then "done", "stopped" or "failed" }
const LONGEST_TITLE = 60;
let lastId = 0;

// Grows with time. crypto.randomUUID needs https, which a home's server may not have.
export function newId() {
  lastId = Math.max(Date.now(), lastId + 1);
  return `${lastId.toString(36)}-${Math.random().toString(36).slice(2, 8)}`;
}

export function newConversation(settings = {}) {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, settings, nodes: {}, chosen: {} };
}

// Put a message after another one, or at the beginning, and choose it. The new node.
export function add(conversation, parent, message) {
  const node = { images: [], created: Date.now(), ...message, id: newId(), parent: parent ?? "" };
  conversation.nodes[node.id] = node;
  conversation.chosen[node.parent] = node.id;
  conversation.updated = Date.now();
  conversation.title ||= titleOf(node.content);
  return node;
}

export function choose(conversation, node) {
  conversation.chosen[node.parent] = node.id;
}

// The node and all messages with the same place, the oldest first.
export function alternatives(conversation, node) {
  return Object.values(conversation.nodes)
    .filter((other) => other.parent === node.parent && !other.isDropped)
    .sort((one, other) => one.created - other.created || (one.id < other.id ? -1 : 1));
}

// The chosen messages from the beginning to the end, or to a node.
export function path(conversation, last = null) {
  const nodes = [];
  let node = conversation.nodes[conversation.chosen[""]];
  // A node that was met before would be the work of a damaged store.
  while (node && !nodes.includes(node)) {
    nodes.push(node);
    if (node.id === last) break;
    node = conversation.nodes[conversation.chosen[node.id]];
  }
  return nodes;
}

// An answer without a text is of no use beside another one. It stays in the store, where another tab
// would bring it back otherwise.
export function dropEmpty(conversation, node) {
  if (node.content || node.reasoning || alternatives(conversation, node).length < 2) return;
  node.isDropped = true;
  conversation.chosen[node.parent] = alternatives(conversation, node).at(-1).id;
}

export function titleOf(text) {
  const line = text.trim().split("\n")[0].replace(/\s+/g, " ");
  return line.length > LONGEST_TITLE ? `${line.slice(0, LONGEST_TITLE - 1)}…` : line;
}

// The messages of a chat request. `urlOf` gives the data URL of a picture.
export async function messagesOf(conversation, nodes, urlOf) {
  const { system } = conversation.settings;
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const node of nodes) {
    // An answer that failed at once has nothing to go on from.
    if (node.role === "assistant" && !node.content) continue;
    messages.push({ role: node.role, content: await contentOf(node, urlOf) });
  }
  return messages;
}

async function contentOf(node, urlOf) {
  if (!node.images.length) return node.content;
  const parts = node.content ? [{ type: "text", text: node.content }] : [];
  for (const image of node.images) {
    const url = await urlOf(image);
    // The browser may have lost a picture, by clearing what it keeps.
    if (url) parts.push({ type: "image_url", image_url: { url } });
  }
  return parts.length ? parts : "(a picture that is gone)";
}

// Whether all words are in the title or in a message.
export function matches(conversation, words) {
  const texts = Object.values(conversation.nodes).map((node) => node.content);
  const all = [conversation.title, ...texts].join("\n").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => all.includes(word));
}

// The chosen messages, as a document.
export function toMarkdown(conversation) {
  const parts = [`# ${conversation.title || "Chat"}`];
  const { system } = conversation.settings;
  if (system) parts.push(`## System prompt\n\n${system}`);
  for (const node of path(conversation)) {
    const who = node.role === "user" ? "You" : node.model || "Assistant";
    const images = node.images.map((image) => `(picture: ${image.name})\n\n`).join("");
    parts.push(`## ${who}\n\n${images}${node.content || node.error || ""}`);
  }
  return `${parts.join("\n\n")}\n`;
}

// Both versions of what two tabs have changed: no message of either is lost.
export function merged(stored, own) {
  if (!stored) return own;
  return {
    ...own,
    nodes: { ...stored.nodes, ...own.nodes },
    chosen: { ...stored.chosen, ...own.chosen },
  };
}
