// The first chat: one message through the proxy's own pipeline, with the wait told in words.
import { $, tell } from "./elements.js";
import { eventsOf, problemOf } from "./event_stream.js";

document.documentElement.classList.add("js");
const form = $("chat-form");
let stopping = null;

function headers() {
  const token = form.dataset.token;
  return { "Content-Type": "application/json", ...(token ? { "X-Page-Token": token } : {}) };
}

function body() {
  const messages = [{ role: "user", content: $("chat-text").value.trim() }];
  return JSON.stringify({ model: $("chat-model").value, stream: true, messages });
}

// What is told while nothing has come; the horde's place in line where it says so.
function waiting(seconds, horde) {
  const place = horde?.queue_position ? `, place ${horde.queue_position} in line` : "";
  if (seconds < 4) return `Sent; looking for somebody who answers${place}.`;
  return `Waiting for ${seconds} s${place}. The answer comes here by itself.`;
}

async function send() {
  if (stopping) return;
  stopping = new AbortController();
  setBusy(true);
  const began = performance.now();
  const elapsed = () => Math.round((performance.now() - began) / 1000);
  const answer = $("chat-answer");
  let horde = null;
  let hasText = false;
  const clock = setInterval(() => { if (!hasText) tell("chat-status", waiting(elapsed(), horde)); }, 1000);
  tell("chat-status", waiting(0, null));
  try {
    const options = { method: "POST", headers: headers(), body: body(), signal: stopping.signal };
    const response = await fetch(form.dataset.route, options);
    if (!response.ok) throw new Error(await problemOf(response));
    let model = "";
    for await (const chunk of eventsOf(response)) {
      horde = chunk.horde || horde;
      model = chunk.model || model;
      const text = chunk.choices?.[0]?.delta?.content;
      if (!text) continue;
      if (!hasText) tell("chat-status", "Writing…");
      hasText = true;
      answer.hidden = false;
      answer.textContent += text;
    }
    tell("chat-status", hasText ? "It works." : "It answered without a text.");
    tell("chat-facts", `${model} answered after ${elapsed()} s.`);
  } catch (error) {
    fail(error);
  }
  clearInterval(clock);
  stopping = null;
  setBusy(false);
}

function fail(error) {
  const isStopped = error.name === "AbortError";
  tell("chat-status", isStopped ? "Stopped." : "It failed.");
  if (isStopped) return;
  $("chat-answer").hidden = false;
  $("chat-answer").classList.add("failed");
  $("chat-answer").textContent = error.message;
}

function setBusy(isBusy) {
  $("chat-send").disabled = isBusy;
  $("chat-stop").disabled = !isBusy;
  if (!isBusy) return;
  $("chat-answer").hidden = true;
  $("chat-answer").classList.remove("failed");
  $("chat-answer").textContent = "";
  tell("chat-facts", "");
}

form?.addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("chat-stop")?.addEventListener("click", () => stopping?.abort());
