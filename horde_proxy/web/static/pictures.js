// Making pictures: sends the form, shows how the wait goes, and gives the pictures to the gallery.
import { post } from "./answers.js";
import { eventsOf } from "./event_stream.js";
import { $, tell } from "./elements.js";
import * as gallery from "./gallery.js";
import * as pictureSource from "./picture_source.js";

const PATIENCE = 20;  // seconds that a picture is assumed to take where no model tells
let stopping = null;
let ticking = 0;

const choice = () => $("picture-model").selectedOptions[0];
const isOfHorde = () => "horde" in choice().dataset;

// What differs from a default is sent: other servers refuse what they do not know.
function valuesOf() {
  const values = { prompt: $("picture-prompt").value.trim(), model: $("picture-model").value };
  for (const [name, value, usual] of [
    ["size", $("picture-size").value, "auto"],
    ["quality", $("picture-quality").value, "medium"],
    ["n", Number($("picture-n").value), 1],
    ["output_format", $("picture-format").value, "png"],
    ["negative_prompt", $("picture-negative").value.trim(), ""],
    ["seed", $("picture-seed").value.trim(), ""],
  ]) {
    if (value !== usual) values[name] = value;
  }
  if (isOfHorde()) values.stream = true;
  // OpenAI's newer models always answer in base64, and refuse the field.
  if (!/gpt-image/.test(values.model)) values.response_format = "b64_json";
  return values;
}

async function request(values, signal) {
  const edited = await pictureSource.fields();
  if (!edited) return post("generation", values, signal);
  if (!isOfHorde()) delete edited.strength;  // OpenAI's API has no such field
  const form = new FormData();
  for (const [name, value] of Object.entries({ ...values, ...edited })) {
    form.append(name, ...(Array.isArray(value) ? value : [String(value)]));
  }
  return post("edit", form, signal);
}

// A server that does not stream answers with all pictures at once.
async function* picturesOf(response) {
  if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
    const answer = await response.json();
    for (const [place, image] of (answer.data || []).entries()) yield pictureOf(answer, image, place);
    return;
  }
  for await (const event of eventsOf(response, showWait)) {
    // Other events are drafts of a picture: "image_generation.partial_image".
    if (event.type?.endsWith(".completed")) yield pictureOf(event, event, 0);
  }
}

function pictureOf(answer, image, place) {
  if (!image.b64_json) throw new Error("The answer has a link to another server, which is not loaded.");
  const { model, seeds = [], workers = [] } = answer.horde || {};
  // A loop, because Uint8Array.from takes seconds for a picture of some megabytes.
  const text = atob(image.b64_json);
  const bytes = new Uint8Array(text.length);
  for (let index = 0; index < bytes.length; index += 1) bytes[index] = text.charCodeAt(index);
  const kind = ["png", "jpeg", "webp"].find((name) => name === answer.output_format) || "png";
  return {
    blob: new Blob([bytes], { type: `image/${kind}` }),
    size: answer.size,
    model,
    seed: seeds[place],
    maker: (workers[place] || workers[0])?.name,
  };
}

// How the wait goes.

const wait = { began: 0, left: PATIENCE };

function showWait(comment) {
  tell("picture-status", comment);
  const seconds = comment.match(/about (\d+) s/)?.[1];  // "queued, position 3, about 20 s"
  if (seconds) wait.left = (Date.now() - wait.began) / 1000 + Number(seconds);
}

function tick() {
  const seconds = (Date.now() - wait.began) / 1000;
  $("picture-time").textContent = `${Math.floor(seconds)} s`;
  // It is never full before the pictures are here.
  $("picture-progress").value = Math.min(0.95, seconds / wait.left);
}

function setBusy(isBusy) {
  $("picture-send").disabled = isBusy;
  $("picture-stop").disabled = !isBusy;
  $("picture-progress").hidden = !isBusy;
  clearInterval(ticking);
  $("picture-time").textContent = "";
  if (!isBusy) return;
  Object.assign(wait, { began: Date.now(), left: Number(choice().dataset.seconds) || PATIENCE });
  tell("picture-status", "Sent; waiting for a worker.");
  tick();
  ticking = setInterval(tick, 500);
}

function problem(text) {
  $("picture-problem").textContent = text;
  $("picture-problem").hidden = !text;
}

async function send() {
  if (stopping) return;
  const values = valuesOf();
  let count = 0;
  stopping = new AbortController();
  setBusy(true);
  problem("");
  try {
    const response = await request(values, stopping.signal);
    for await (const picture of picturesOf(response)) {
      const model = picture.model || response.headers.get("X-Horde-Model") || values.model;
      const maker = picture.maker || response.headers.get("X-Endpoint");
      await gallery.add({ ...picture, model, maker, prompt: values.prompt });
      count += 1;
    }
    if (!count) throw new Error("The answer has no picture.");
    tell("picture-status", count === 1 ? "The picture is ready." : `${count} pictures are ready.`);
    const wanted = values.n || 1;
    const missing = count < wanted ? `Only ${count} of ${wanted} pictures came. ` : "";
    problem(missing + warningOf(response));
  } catch (error) {
    const isStopped = error.name === "AbortError";
    tell("picture-status", isStopped ? "Stopped." : "It failed.");
    if (!isStopped) problem(error.message);
  }
  stopping = null;
  setBusy(false);
}

// What was changed or left out of the request, such as a size that no worker makes.
function warningOf(response) {
  const text = response.headers.get("X-Horde-Warnings") || "";
  try { return decodeURIComponent(text); } catch { return text; }
}

$("picture-form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("picture-prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("picture-form").requestSubmit();
});
$("picture-stop").addEventListener("click", () => stopping?.abort());
gallery.begin((picture) => pictureSource.use(picture.blob, picture.prompt));
