// The chat: takes what is written, asks for an answer, shows it as it comes, and keeps both.
import { post } from "./answers.js";
import * as attachments from "./attachments.js";
import * as chatList from "./chat_list.js";
import * as log from "./chat_log.js";
import {
  add, alternatives, choose, dropEmpty, messagesOf, newConversation, path, titleOf,
} from "./conversation.js";
import * as conversations from "./conversations.js";
import { $, tell } from "./elements.js";
import { eventsOf } from "./event_stream.js";
import * as modelBox from "./model_box.js";
import { waitingWords } from "./waiting.js";

const DRAFT_SETTINGS = ["system", "temperature", "maxTokens"];
const SAVE_EVERY = 5000;  // ms
let current = newConversation();
let running = null;  // { abort, node, conversation } while an answer comes

// Keeping.

async function keep(conversation) {
  try {
    await conversations.save(conversation);
    problem("");
  } catch (error) {
    problem(error.message);
  }
  drawList();
}

// Who closes the tab during a long answer finds most of it again.
function saveQuietly(conversation) {
  if (conversations.get(conversation.id)) conversations.save(conversation).catch(() => null);
}

function problem(text) {
  $("chat-problem").textContent = text;
  $("chat-problem").hidden = !text;
}

function drawList() {
  chatList.draw(current.id, (chat) => { open(chat); chatList.toggleDrawer(false); });
}

// Drawing.

function draw() {
  // In another conversation the answer goes on, unseen, until it is complete.
  const isAnswered = running?.conversation === current;
  log.draw(current, actions, isAnswered);
  $("chat-title").textContent = current.title || "New chat";
  $("chat-send").hidden = isAnswered;
  $("chat-stop").hidden = !isAnswered;
  $("chat-log").setAttribute("aria-busy", String(isAnswered));
  for (const id of ["chat-rename", "chat-delete", "chat-markdown", "chat-json"]) {
    $(id).disabled = !Object.keys(current.nodes).length;
  }
  if (isAnswered) running.answer = new log.GrowingAnswer(running.node);
  running?.answer?.grow();
  drawList();
}

function open(conversation) {
  current = conversation;
  modelBox.choose(conversation.settings.model || modelBox.lastModel());
  $("chat-system").value = conversation.settings.system || "";
  $("chat-temperature").value = conversation.settings.temperature ?? "";
  $("chat-tokens").value = conversation.settings.maxTokens ?? "";
  tell("chat-status", "");
  problem("");
  draw();
}

function readSettings() {
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  current.settings = {
    model: modelBox.model(),
    system: $("chat-system").value.trim(),
    temperature: number("chat-temperature"),
    maxTokens: number("chat-tokens"),
  };
}

// Asking.

async function bodyOf(conversation, nodes) {
  const { model, temperature, maxTokens } = conversation.settings;
  const urlOf = async (image) => {
    const blob = await conversations.pictureOf(image);
    return blob && attachments.dataUrlOf(blob);
  };
  return {
    model, stream: true, messages: await messagesOf(conversation, nodes, urlOf),
    ...(temperature === undefined ? {} : { temperature }),
    ...(maxTokens === undefined ? {} : { max_tokens: maxTokens }),
  };
}

// Get an answer to the last of the chosen messages, beside those that it has.
async function answer(question) {
  readSettings();
  const conversation = current;
  const nodes = path(conversation, question.id);
  const node = add(conversation, question.id, {
    role: "assistant", content: "", model: conversation.settings.model, state: "waiting",
  });
  const abort = new AbortController();
  running = { abort, node, conversation, answer: null };
  draw();
  const stopWatch = watch();
  let outcome = "Done.";
  try {
    const response = await post("chat", await bodyOf(conversation, nodes), abort.signal);
    note(node, response);
    await read(response, node);
    node.state = "done";
  } catch (error) {
    const isStopped = error.name === "AbortError";
    node.state = isStopped ? "stopped" : "failed";
    if (!isStopped) node.error = sentenceOf(error);
    outcome = isStopped ? "Stopped." : "It failed.";
  }
  stopWatch();
  running = null;
  dropEmptyOthers(conversation, node);
  if (conversation === current) {
    draw();
    tell("chat-status", outcome);
  }
  // It may have been deleted meanwhile.
  if (conversations.get(conversation.id)) await keep(conversation);
}

// Beside a better answer, one that failed without a word is of no use.
function dropEmptyOthers(conversation, node) {
  for (const other of alternatives(conversation, node)) {
    if (other !== node && other.state === "failed") dropEmpty(conversation, other);
  }
  if (node.state === "stopped") dropEmpty(conversation, node);
}

// fetch() says "Failed to fetch", and nobody knows what that is.
function sentenceOf(error) {
  return error instanceof TypeError
    ? "The proxy cannot be reached. Is it running, and are you connected?" : error.message;
}

function note(node, response) {
  node.model = response.headers.get("X-Horde-Model") || node.model;
  node.endpoint = response.headers.get("X-Endpoint") || "";
  const warnings = response.headers.get("X-Horde-Warnings") || "";
  try { node.warnings = decodeURIComponent(warnings); } catch { node.warnings = warnings; }
}

async function read(response, node) {
  let thinkingSince = 0;
  const onComment = (text) => { running.comment = text; running.commentAt = performance.now(); };
  for await (const chunk of eventsOf(response, onComment)) {
    const delta = chunk.choices?.[0]?.delta || {};
    const thought = delta.reasoning_content || delta.reasoning;
    if (chunk.model && (delta.content || thought)) node.model = chunk.model;
    if (typeof thought === "string" && thought) {
      thinkingSince ||= performance.now();
      node.reasoning = (node.reasoning || "") + thought;
    }
    if (typeof delta.content === "string" && delta.content) {
      if (thinkingSince) node.reasoningSeconds ??= (performance.now() - thinkingSince) / 1000;
      node.content += delta.content;
    }
    if (delta.content || thought) running.answer?.grow();
  }
  if (thinkingSince) node.reasoningSeconds ??= (performance.now() - thinkingSince) / 1000;
  if (!node.content && !node.reasoning) throw new Error("The answer is empty.");
}

// Says what the answer waits for, and keeps what has come, until the function that it gives is called.
function watch() {
  const began = performance.now();
  const mine = running;
  mine.comment = "";
  mine.commentAt = began;
  const look = () => {
    if (mine.conversation !== current) return;
    const { node } = mine;
    const passed = (performance.now() - mine.commentAt) / 1000;
    const waited = Math.floor((performance.now() - began) / 1000);
    const words = mine.comment ? waitingWords(mine.comment, node.endpoint, passed) : "Sent; waiting for an answer";
    if (node.content) tell("chat-status", "Writing…");
    else if (node.reasoning) tell("chat-status", "Thinking…");
    else tell("chat-status", `${words}.`);
    // Not announced by screen readers: it changes each second.
    $("chat-waited").textContent = node.content || waited < 3 ? "" : `${waited} s`;
  };
  look();
  const timers = [setInterval(look, 500), setInterval(() => saveQuietly(mine.conversation), SAVE_EVERY)];
  return () => { timers.forEach(clearInterval); $("chat-waited").textContent = ""; };
}

// What one can do.

// One answer at a time. Whether there is one, which is said where it is not seen.
function isBusy() {
  if (running && running.conversation !== current) {
    problem(`The chat “${running.conversation.title}” is still being answered. Wait for it, or stop it there.`);
  }
  return running !== null;
}

async function send() {
  const text = $("chat-text").value.trim();
  if ((!text && attachments.isEmpty()) || isBusy()) return;
  $("chat-text").value = "";
  fit();
  const images = [];
  for (const { blob, name } of attachments.take()) images.push(await conversations.addPicture(blob, name));
  readSettings();
  const last = path(current).at(-1);
  const question = add(current, last?.id, { role: "user", content: text, images });
  if (!current.title) current.title = titleOf(images[0]?.name || "");
  keep(current);
  await answer(question);
}

const actions = {
  retry(node) {
    const question = current.nodes[node.parent];
    if (isBusy() || !question) return;
    choose(current, question);
    answer(question);
  },
  edit(node) {
    log.drawEditor(node, async (text) => {
      if (!text || isBusy()) return;
      if (text === node.content) return void draw();
      const edited = add(current, node.parent, { role: "user", content: text, images: node.images });
      keep(current);
      await answer(edited);
    }, draw);
  },
  show(node) {
    choose(current, node);
    keep(current);
    draw();
  },
};

function startNew() {
  const { settings } = current;
  const kept = Object.fromEntries(DRAFT_SETTINGS.map((name) => [name, settings[name]]));
  open(newConversation({ ...kept, model: modelBox.lastModel() }));
  chatList.toggleDrawer(false);
  $("chat-text").focus();
}

async function rename() {
  $("chat-name").value = current.title;
  $("chat-naming").showModal();
}

function ask(text, action) {
  $("chat-question").textContent = text;
  $("chat-asking").showModal();
  $("chat-yes").onclick = () => { $("chat-asking").close(); action(); };
}

function fit() {
  const field = $("chat-text");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, window.innerHeight * 0.3)}px`;
}

function deleteCurrent() {
  ask(`Delete the chat “${current.title}”? It cannot be brought back.`, async () => {
    if (running?.conversation === current) running.abort.abort();
    await conversations.remove(current.id);
    startNew();
  });
}

function deleteAll() {
  ask("Delete all chats of this browser? They cannot be brought back.", async () => {
    running?.abort.abort();
    await conversations.removeAll();
    startNew();
  });
}

const clicks = {
  "chat-stop": () => running?.abort.abort(),
  "chat-new": startNew,
  "chats-open": () => chatList.toggleDrawer(true),
  "chats-close": () => chatList.toggleDrawer(false),
  "chat-attach": () => $("chat-file").click(),
  "chat-rename": rename,
  "chat-delete": deleteCurrent,
  "chat-markdown": () => chatList.exportMarkdown(current),
  "chat-json": () => chatList.exportJson([current], current.title),
  "chats-export": () => chatList.exportJson(conversations.list(), "horde-proxy chats"),
  "chats-delete": deleteAll,
  "chat-no": () => $("chat-asking").close(),
  "chat-keep-name": () => $("chat-naming").close(),
};
for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", () => {
  $(id).closest("details.menu")?.removeAttribute("open");
  action();
});

$("chat-form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("chat-naming-form").addEventListener("submit", () => {
  current.title = $("chat-name").value.trim() || current.title;
  keep(current);
  draw();
});
$("chat-text").addEventListener("keydown", (event) => {
  // Enter also ends the writing of a Chinese or Japanese word.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
$("chat-text").addEventListener("input", fit);
$("chats-search").addEventListener("input", drawList);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") chatList.toggleDrawer(false);
});
// A menu closes when one clicks beside it.
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.removeAttribute("open");
  }
});
attachments.begin(problem);

async function begin() {
  const isKept = await conversations.open((id) => {
    // What another tab has added is shown, but not while one writes here.
    if (id === current.id && !running && !document.querySelector(".editor")) draw();
    else drawList();
  });
  $("chats-note").textContent = isKept
    ? "Only this browser keeps your chats. On a shared one, delete them when you leave."
    : "This browser keeps no chats: they end with this page.";
  const [last] = conversations.list();
  open(last || current);
}

begin();
