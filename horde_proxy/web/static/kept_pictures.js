// The last pictures, kept by this browser only, in its IndexedDB. Each visitor has a database: who
// logs in with another key does not see them.
//
// A picture: { id, blob, prompt, model, size, seed, maker }. Ids grow, so the newest has the last.
export const MOST = 24;
const MOST_BYTES = 200e6;  // a browser may refuse more, and a phone has little room
const NAME = `horde-proxy pictures of ${document.body.dataset.visitor || "anybody"}`;

// A browser that forbids storage keeps them as long as the page is open.
const shown = new Map();
let database = null;
let lastId = 0;

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

const store = (mode) => database.transaction("pictures", mode).objectStore("pictures");

// All pictures, the oldest first.
export async function load() {
  try {
    const opening = indexedDB.open(NAME, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("pictures", { keyPath: "id" });
    database = await settled(opening);
    for (const picture of await settled(store("readonly").getAll())) shown.set(picture.id, picture);
    // Another tab has added pictures of its own.
    for (const id of surplus()) await remove(id);
  } catch {
    database = null;
  }
  lastId = Math.max(0, ...shown.keys());
  return [...shown.values()];
}

// The picture with its id, the ids of those that had to go, and whether it outlives the page.
export async function keep(picture) {
  const kept = { ...picture, id: lastId = Math.max(Date.now(), lastId + 1) };
  shown.set(kept.id, kept);
  const gone = surplus();
  for (const id of gone) await remove(id);
  let isKept = database !== null;
  try {
    if (isKept) await settled(store("readwrite").put(kept));
  } catch {
    isKept = false;  // the disk, or the browser's share of it, is full
  }
  return { kept, gone, isKept };
}

function surplus() {
  const oldestFirst = [...shown.values()];
  let bytes = oldestFirst.reduce((sum, picture) => sum + picture.blob.size, 0);
  const gone = [];
  while (oldestFirst.length > 1 && (oldestFirst.length > MOST || bytes > MOST_BYTES)) {
    const picture = oldestFirst.shift();
    bytes -= picture.blob.size;
    gone.push(picture.id);
  }
  return gone;
}

export async function remove(id) {
  shown.delete(id);
  if (database) await settled(store("readwrite").delete(id)).catch(() => null);
}
