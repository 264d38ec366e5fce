// The gallery: shows the kept pictures, the newest first, with what can be done with each.
import { $, copy, make, tell } from "./elements.js";
import { MOST, keep, load, remove } from "./kept_pictures.js";

const items = new Map();  // the element and the blob's URL of each picture, by its id
const KEPT = `Only this browser keeps them, at most ${MOST}.`;
const NOT_KEPT = "This browser does not keep them: they are gone when the page is closed.";
let onUse = () => {};

// Show the pictures of earlier visits. `use` gets the picture that is to be changed.
export async function begin(use) {
  onUse = use;
  for (const picture of await load()) show(picture);
}

// Show a new picture, and keep it.
export async function add(picture) {
  const { kept, gone, isKept } = await keep(picture);
  gone.forEach(hide);
  show(kept);
  tell("gallery-note", isKept ? KEPT : NOT_KEPT);
}

function show(picture) {
  const url = URL.createObjectURL(picture.blob);
  const image = make("img", { src: url, alt: picture.prompt, loading: "lazy" });
  const enlarge = make("button", { type: "button", class: "thumbnail" }, image);
  enlarge.setAttribute("aria-label", `Show in full size: ${picture.prompt}`);
  enlarge.addEventListener("click", () => showLarge(url, picture.prompt));
  const item = make("li", {}, enlarge, make("p", { class: "prompt" }, picture.prompt),
    make("p", { class: "quiet" }, factsOf(picture)), actionsOf(picture, url));
  items.set(picture.id, { item, url });
  $("gallery").prepend(item);
  $("gallery-part").hidden = false;
}

function factsOf({ model, size, maker, seed }) {
  const facts = [model, size?.replace("x", "×"), maker && `made by ${maker}`, seed && `seed ${seed}`];
  return facts.filter(Boolean).join(" · ");
}

function actionsOf(picture, url) {
  const name = nameOf(picture);
  const download = make("a", { class: "button", href: url, download: name }, "Download");
  download.setAttribute("aria-label", `Download: ${picture.prompt}`);
  const row = make("div", { class: "buttons" }, download,
    action("Change", picture, () => onUse(picture)));
  if (picture.seed) row.append(action("Copy seed", picture, () => copySeed(picture.seed)));
  row.append(action("Remove", picture, () => drop(picture.id)));
  return row;
}

function action(label, picture, run) {
  const button = make("button", { type: "button", "aria-label": `${label}: ${picture.prompt}` }, label);
  button.addEventListener("click", run);
  return button;
}

// "a fox in snow" with the seed 42 is "a-fox-in-snow-42.png".
function nameOf({ prompt, seed, blob }) {
  const words = prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) || ["picture"];
  const end = seed ? `-${seed.replace(/[^\w]/g, "").slice(0, 20)}` : "";
  return `${words.join("-").slice(0, 60)}${end}.${blob.type.replace("image/", "")}`;
}

async function copySeed(seed) {
  try {
    await copy(seed);
    tell("picture-status", `Copied: ${seed}`);
  } catch {
    tell("picture-status", `Copy this: ${seed}`);
  }
}

async function drop(id) {
  const { item } = items.get(id);
  // The focus goes on to a neighbour: it would fall back to the top of the page.
  const next = item.nextElementSibling || item.previousElementSibling;
  hide(id);
  (next?.querySelector(".buttons :last-child") || $("picture-prompt")).focus();
  await remove(id);
}

function hide(id) {
  const { item, url } = items.get(id);
  item.remove();
  URL.revokeObjectURL(url);
  items.delete(id);
  $("gallery-part").hidden = items.size === 0;
}

function showLarge(url, prompt) {
  $("large-image").src = url;
  $("large-image").alt = prompt;
  $("picture-large").showModal();
}

$("large-close").addEventListener("click", () => $("picture-large").close());
$("picture-large").addEventListener("click", (event) => {
  if (event.target === $("picture-large")) $("picture-large").close();
});
$("gallery-clear").addEventListener("click", async () => {
  if (!confirm("Remove all pictures from this browser?")) return;
  const ids = [...items.keys()];
  ids.forEach(hide);
  $("picture-prompt").focus();
  for (const id of ids) await remove(id);
});
