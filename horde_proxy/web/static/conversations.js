// Where conversations are kept: in this browser's IndexedDB, one database for each visitor, so that
// who logs in with another key does not see them. Nothing of it is sent to the proxy.
//
// A browser that forbids storage keeps them as long as the page is open. The number is bounded, and
// nothing is removed by itself: a full store says so, and the reader decides what goes.
import { matches, merged, newId } from "./conversation.js";

export const MOST_CHATS = 500;
export const MOST_BYTES = 100e6;  // phones give a site a few hundred megabytes
const NAME = `horde-proxy chats of ${document.body.dataset.visitor || "anybody"}`;

export class StorageFull extends Error {}

const all = new Map();     // conversations by id
const pictures = new Map();  // blobs by id, those that were used
const sizes = new Map();   // bytes of pictures and conversations, by their ids
let database = null;
const channel = "BroadcastChannel" in window ? new BroadcastChannel(NAME) : null;

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

const finished = (transaction) => new Promise((resolve, reject) => {
  transaction.oncomplete = resolve;
  transaction.onabort = transaction.onerror = () => reject(transaction.error);
});

// Whether they outlive the page. `onChange` is called when another tab has saved or deleted, with the
// id of the conversation that it saved.
export async function open(onChange) {
  try {
    const opening = indexedDB.open(NAME, 1);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore("chats", { keyPath: "id" });
      opening.result.createObjectStore("pictures", { keyPath: "id" });
    };
    database = await settled(opening);
    await load();
  } catch {
    database = null;
  }
  if (channel && database) {
    channel.onmessage = async ({ data }) => { await load().catch(() => null); onChange(data); };
  }
  return database !== null;
}

async function load() {
  const chats = await settled(database.transaction("chats").objectStore("chats").getAll());
  const before = new Map(all);
  all.clear();
  sizes.clear();
  for (const chat of chats) {
    const own = before.get(chat.id);
    // An open conversation stays the same object, with what another tab has added to it.
    const { nodes, chosen } = own || { nodes: {}, chosen: {} };
    const whole = { ...chat, nodes: { ...chat.nodes, ...nodes }, chosen: { ...chat.chosen, ...chosen } };
    all.set(chat.id, own ? Object.assign(own, whole) : whole);
    measure(whole);
  }
}

function measure(chat) {
  sizes.set(chat.id, JSON.stringify(chat).length);
  for (const node of Object.values(chat.nodes)) {
    for (const image of node.images) sizes.set(image.id, image.bytes);
  }
}

// The newest first; with words, only those in which all of them are.
export function list(words = "") {
  const chats = [...all.values()].sort((one, other) => other.updated - one.updated);
  return words.trim() ? chats.filter((chat) => matches(chat, words.trim())) : chats;
}

export const get = (id) => all.get(id);

// Throws StorageFull where there is no room: the conversation goes on, but only this page has it.
export async function save(chat) {
  const others = list().filter((other) => other.id !== chat.id);
  if (others.length >= MOST_CHATS) {
    throw new StorageFull(`This browser keeps ${MOST_CHATS} chats, and this one is too many. `
      + "Delete some, or export them first.");
  }
  measure(chat);
  const bytes = [...sizes.values()].reduce((sum, size) => sum + size, 0);
  if (bytes > MOST_BYTES) {
    throw new StorageFull(`The chats of this browser have reached ${MOST_BYTES / 1e6} MB. Delete some, `
      + "or export them first: this one is not kept.");
  }
  all.set(chat.id, chat);
  if (!database) return;
  try {
    const writing = database.transaction("chats", "readwrite");
    const store = writing.objectStore("chats");
    store.put(merged(await settled(store.get(chat.id)), chat));
    await finished(writing);
    channel?.postMessage(chat.id);
  } catch {
    throw new StorageFull("This browser has no room left for this chat. Delete some, or export them first.");
  }
}

export async function remove(id) {
  await removeThem([id]);
}

export async function removeAll() {
  await removeThem([...all.keys()]);
}

async function removeThem(ids) {
  const images = ids.flatMap((id) => Object.values(all.get(id)?.nodes || {}).flatMap((node) => node.images));
  for (const id of ids) {
    all.delete(id);
    sizes.delete(id);
  }
  for (const image of images) {
    pictures.delete(image.id);
    sizes.delete(image.id);
  }
  if (!database) return;
  const writing = database.transaction(["chats", "pictures"], "readwrite");
  for (const id of ids) writing.objectStore("chats").delete(id);
  for (const image of images) writing.objectStore("pictures").delete(image.id);
  await finished(writing);
  channel?.postMessage("");
}

// What a message keeps of a picture: { id, name, type, bytes }.
export async function addPicture(blob, name) {
  const id = newId();
  pictures.set(id, blob);
  sizes.set(id, blob.size);
  if (database) {
    const writing = database.transaction("pictures", "readwrite");
    writing.objectStore("pictures").put({ id, blob });
    await finished(writing).catch(() => null);
  }
  return { id, name, type: blob.type, bytes: blob.size };
}

// The blob of a picture, or null where the browser has lost it.
export async function pictureOf(image) {
  if (!pictures.has(image.id) && database) {
    const kept = await settled(database.transaction("pictures").objectStore("pictures").get(image.id)).catch(() => null);
    if (kept) pictures.set(image.id, kept.blob);
  }
  return pictures.get(image.id) || null;
}
