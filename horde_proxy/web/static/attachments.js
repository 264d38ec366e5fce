// Pictures that go with a message: chosen, taken by a camera, pasted or dropped. Large ones are made
// smaller, since models see about a thousand pixels, and a body has a bound.
import { $, make } from "./elements.js";

export const MOST = 8;
const LONGEST_SIDE = 1568;  // pixels: more is scaled down by the vision models that say so
const LARGE = 1.5e6;        // bytes

let attached = [];  // { blob, name, url }

export const take = () => {
  const taken = attached;
  attached = [];
  draw();
  return taken;
};
export const isEmpty = () => attached.length === 0;

export function put(pictures) {
  attached = [...attached, ...pictures].slice(0, MOST);
  draw();
}

async function shrunk(file) {
  const bitmap = await createImageBitmap(file);
  const scale = LONGEST_SIDE / Math.max(bitmap.width, bitmap.height);
  if (scale >= 1 && file.size <= LARGE && /^image\/(png|jpeg|webp|gif)$/.test(file.type)) return file;
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * Math.min(1, scale)));
  canvas.height = Math.max(1, Math.round(bitmap.height * Math.min(1, scale)));
  const pen = canvas.getContext("2d");
  // JPEG has no transparency: what is clear becomes white, not black.
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
}

// Attach files. A sentence where one of them is no picture, or is one too many; else "".
export async function attach(files) {
  let problem = "";
  for (const file of files) {
    if (attached.length >= MOST) return `A message takes ${MOST} pictures.`;
    try {
      const blob = await shrunk(file);
      put([{ blob, name: file.name || "picture" }]);
    } catch {
      problem = `${file.name || "This file"} is not a picture that this browser can read.`;
    }
  }
  return problem;
}

// The data URL of a blob.
export function dataUrlOf(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

function draw() {
  const items = attached.map((picture) => {
    picture.url ||= URL.createObjectURL(picture.blob);
    const button = make("button", { type: "button", "aria-label": `Remove ${picture.name}` }, "×");
    button.addEventListener("click", () => {
      attached = attached.filter((other) => other !== picture);
      URL.revokeObjectURL(picture.url);
      draw();
      $("chat-text").focus();
    });
    return make("li", {}, make("img", { src: picture.url, alt: picture.name }), button);
  });
  $("chat-attached").replaceChildren(...items);
  $("chat-attached").hidden = !items.length;
}

const filesOf = (transfer) => [...(transfer?.files || [])].filter((file) => file.type.startsWith("image/"));

// `tell` gets what attach() says.
export function begin(tell) {
  const attachThem = async (files) => tell(await attach(files));
  $("chat-file").addEventListener("change", async () => {
    await attachThem([...$("chat-file").files]);
    $("chat-file").value = "";
  });
  $("chat-text").addEventListener("paste", (event) => {
    const files = filesOf(event.clipboardData);
    if (!files.length) return;
    event.preventDefault();
    attachThem(files);
  });
  const place = $("chat");
  place.addEventListener("dragover", (event) => {
    if ([...event.dataTransfer.types].includes("Files")) event.preventDefault();
  });
  place.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    attachThem([...event.dataTransfer.files]);
  });
}
