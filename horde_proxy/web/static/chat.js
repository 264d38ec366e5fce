// The chat. What a model answers is set as text, but for links to pictures of this proxy.
import { eventsOf, post } from "./answers.js";
import { $, make, tell } from "./elements.js";
import { showPictures } from "./picture_links.js";

const messages = [];
let stopping = null;

function turn(role, text) {
  const place = make("p", {}, text);
  const name = role === "user" ? "You" : $("chat-model").value;
  $("chat-log").hidden = false;
  $("chat-log").append(make("div", { class: `turn ${role}` }, make("b", {}, name), place));
  $("chat-log").scrollTop = $("chat-log").scrollHeight;
  return place;
}

async function read(response, place) {
  for await (const chunk of eventsOf(response, (text) => tell("chat-status", text))) {
    const text = chunk.choices?.[0]?.delta?.content;
    if (text) {
      tell("chat-status", "Writing…");
      place.textContent += text;
      $("chat-log").scrollTop = $("chat-log").scrollHeight;
    }
  }
}

async function send() {
  const text = $("chat-text").value.trim();
  if (!text || stopping) return;
  messages.push({ role: "user", content: text });
  turn("user", text);
  $("chat-text").value = "";
  const place = turn("assistant", "");
  stopping = new AbortController();
  setBusy(true);
  try {
    const chat = { model: $("chat-model").value, stream: true, messages };
    await read(await post("chat", chat, stopping.signal), place);
    tell("chat-status", "Done.");
  } catch (error) {
    const isStopped = error.name === "AbortError";
    tell("chat-status", isStopped ? "Stopped." : "It failed.");
    if (!isStopped) {
      place.parentElement.classList.add("failed");
      place.textContent += error.message;
    }
  }
  stopping = null;
  setBusy(false);
  $("chat-text").focus();
  if (!place.isConnected) return;
  const isAnswer = place.textContent && !place.parentElement.classList.contains("failed");
  if (isAnswer) messages.push({ role: "assistant", content: place.textContent });
  else messages.pop();
  if (isAnswer) showPictures(place);
}

function setBusy(isBusy) {
  $("chat-log").setAttribute("aria-busy", String(isBusy));
  $("chat-send").disabled = isBusy;
  $("chat-stop").disabled = !isBusy;
  if (isBusy) tell("chat-status", "Sent; waiting for an answer.");
}

$("chat-form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("chat-text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
});
$("chat-stop").addEventListener("click", () => stopping?.abort());
$("chat-clear").addEventListener("click", () => {
  stopping?.abort();
  messages.length = 0;
  $("chat-log").replaceChildren();
  $("chat-log").hidden = true;
  tell("chat-status", "");
});
