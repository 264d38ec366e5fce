// Draws the turns of a conversation: the text as Markdown, the reasoning folded, pictures, what may
// be done with a turn. It changes no conversation: chat.js passes what the buttons do.
import { alternatives, path } from "./conversation.js";
import { pictureOf } from "./conversations.js";
import { durationOf } from "./durations.js";
import { $, copy, make } from "./elements.js";
import { GrowingMarkdown, nodesOf } from "./markdown.js";

const log = $("chat-log");
const NEAR = 80;  // pixels: who is so near to the end follows what is written
let pictureUrls = [];

const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;

export function toEnd() {
  log.scrollTop = log.scrollHeight;
}

function followingEnd(change) {
  const follows = isAtEnd();
  change();
  if (follows) toEnd();
}

log.addEventListener("scroll", () => { $("chat-down").hidden = isAtEnd(); });
$("chat-down").addEventListener("click", toEnd);

function button(text, label, action) {
  // Voice control needs the words that are seen: only a sign has another name.
  const name = /\p{L}/u.test(text) ? {} : { "aria-label": label };
  const element = make("button", { type: "button", title: label, ...name }, text);
  element.addEventListener("click", action);
  return element;
}

// All turns again. `actions`: { retry(node), edit(node), show(node) }.
export function draw(conversation, actions, isBusy = false) {
  for (const url of pictureUrls) URL.revokeObjectURL(url);
  pictureUrls = [];
  const turns = path(conversation).map((node) => turnOf(conversation, node, actions, isBusy));
  log.replaceChildren(...turns);
  $("chat-empty").hidden = turns.length > 0;
  log.hidden = turns.length === 0;
  $("chat-down").hidden = true;
  toEnd();
}

function turnOf(conversation, node, actions, isBusy) {
  const isUser = node.role === "user";
  const turn = make("div", { class: `turn ${node.role}${node.state === "failed" ? " failed" : ""}`, "data-id": node.id });
  turn.append(make("h3", {}, isUser ? "You" : whoOf(node)));
  if (node.reasoning) turn.append(reasoningOf(node).details);
  if (node.images?.length) turn.append(picturesOf(node));
  const place = make("div", { class: "text" });
  // What people write is shown as they wrote it.
  if (isUser) place.textContent = node.content;
  else place.append(nodesOf(node.content));
  turn.append(place);
  if (node.error) turn.append(make("p", { class: "error" }, node.error));
  // "waiting" without an answer that comes: its tab was closed.
  if (node.state === "stopped" || (node.state === "waiting" && !isBusy)) turn.append(make("p", { class: "quiet" }, "Stopped here."));
  if (node.warnings) turn.append(make("p", { class: "quiet" }, node.warnings));
  if (!isBusy) turn.append(toolsOf(conversation, node, actions));
  return turn;
}

// "koboldcpp/Nova-8B, at home": who really answered.
function whoOf(node) {
  return [node.model || "Assistant", node.endpoint && `at ${node.endpoint}`].filter(Boolean).join(", ");
}

function reasoningOf(node) {
  const summary = make("summary", {}, reasoningTitle(node));
  const text = make("div", { class: "text" });
  text.append(nodesOf(node.reasoning || ""));
  return { details: make("details", { class: "reasoning" }, summary, text), summary, text };
}

function reasoningTitle(node) {
  const seconds = node.reasoningSeconds;
  return seconds === undefined ? "Thinking" : `Thought for ${durationOf(Math.max(1, Math.round(seconds)))}`;
}

function picturesOf(node) {
  const list = make("div", { class: "pictures" });
  for (const image of node.images) {
    const element = make("img", { alt: image.name });
    list.append(element);
    pictureOf(image).then((blob) => {
      if (!blob) return element.replaceWith(`(${image.name}: this browser no longer has it)`);
      element.src = URL.createObjectURL(blob);
      pictureUrls.push(element.src);
      return null;
    });
  }
  return list;
}

function toolsOf(conversation, node, actions) {
  const tools = make("div", { class: "tools" });
  const others = alternatives(conversation, node);
  if (others.length > 1) tools.append(...switchOf(others, node, actions));
  if (node.role === "user") tools.append(button("Edit", "Edit this message", () => actions.edit(node)));
  else tools.append(button("Try again", "Get another answer", () => actions.retry(node)));
  if (node.content) {
    const element = button("Copy", "Copy this text", async () => {
      const isCopied = await copy(node.content).then(() => true, () => false);
      element.textContent = isCopied ? "Copied" : "Not allowed";
      setTimeout(() => { element.textContent = "Copy"; }, 2000);
    });
    tools.append(element);
  }
  return tools;
}

function switchOf(others, node, actions) {
  const index = others.indexOf(node);
  const before = button("‹", "The version before", () => actions.show(others[index - 1]));
  const next = button("›", "The next version", () => actions.show(others[index + 1]));
  before.disabled = index === 0;
  next.disabled = index === others.length - 1;
  return [before, make("span", { class: "quiet" }, `${index + 1} of ${others.length}`), next];
}

// The form in which a message is edited, in place of its text.
export function drawEditor(node, onSave, onCancel) {
  const turn = log.querySelector(`[data-id="${CSS.escape(node.id)}"]`);
  const field = make("textarea", { rows: "4", "aria-label": "Your message" });
  field.value = node.content;
  const save = button("Send", "Send the edited message", () => onSave(field.value.trim()));
  save.classList.add("main");
  const form = make("div", { class: "editor" }, field, make("div", { class: "buttons" }, save, button("Cancel", "Keep the message", onCancel)));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") onCancel();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      onSave(field.value.trim());
    }
  });
  turn.classList.add("edited");
  turn.querySelector(".tools")?.remove();
  turn.querySelector(".text").replaceWith(form);
  field.focus();
}

// An answer while it is written. Drawn once a frame at most, and seldom where a frame takes long.
export class GrowingAnswer {
  constructor(node) {
    this.node = node;
    this.turn = log.querySelector(`[data-id="${CSS.escape(node.id)}"]`);
    // What had come before this conversation was opened again is drawn once more.
    this.turn.querySelector(".reasoning")?.remove();
    const place = this.turn.querySelector(".text");
    place.replaceChildren();
    this.markdown = new GrowingMarkdown(place);
    this.reasoning = null;
    this.pause = 0;
    this.timer = null;
  }

  grow() {
    this.timer ??= setTimeout(() => { this.timer = null; requestAnimationFrame(() => this.draw()); }, this.pause);
  }

  draw() {
    if (!this.turn.isConnected) return;
    const began = performance.now();
    followingEnd(() => {
      const { node } = this;
      this.turn.querySelector("h3").textContent = whoOf(node);
      if (node.reasoning && !this.reasoning) {
        const { details, summary, text } = reasoningOf({});
        this.turn.querySelector("h3").after(details);
        this.reasoning = { summary, markdown: new GrowingMarkdown(text) };
      }
      this.reasoning?.markdown.show(node.reasoning);
      if (this.reasoning) this.reasoning.summary.textContent = reasoningTitle(node);
      if (node.content) this.markdown.show(node.content);
    });
    // A fifth of the time goes to drawing, so that the page stays quick on a phone.
    this.pause = Math.min(1000, 4 * (performance.now() - began));
  }
}
