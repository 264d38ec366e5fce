// The picture that is changed, and the part of it that is painted for a mask.
import { $, tell } from "./elements.js";

const BRUSH = 0.09;  // of the picture's width: about a finger on a phone
let source = null;   // the blob
let url = "";
let isPainted = false;
let last = [0, 0];  // where the brush was

export function use(blob, prompt) {
  release();
  source = blob;
  url = URL.createObjectURL(blob);
  $("source-image").alt = prompt;
  $("source-image").src = url;
  $("picture-source").hidden = false;
  $("picture-send").textContent = "Change the picture";
  $("picture-prompt").focus();
}

function release() {
  source = null;
  if (url) URL.revokeObjectURL(url);
  url = "";
  $("source-paint").checked = false;
  showMask();
}

function forget() {
  release();
  $("source-image").removeAttribute("src");
  $("picture-file").value = "";
  $("picture-source").hidden = true;
  $("picture-send").textContent = "Make pictures";
}

// The fields of an edit: the picture, how much may change, and the mask; null without a picture.
export async function fields() {
  if (!source) return null;
  const image = [source, "picture"];
  // A painted part is made anew, whatever was there.
  if ($("source-paint").checked && isPainted) return { image, mask: [await mask(), "mask.png"] };
  return { image, strength: $("picture-strength").value };
}

// OpenAI's mask: what is painted is transparent, all else is kept.
function mask() {
  const { width, height } = $("source-mask");
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "destination-out";
  context.drawImage($("source-mask"), 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function showMask() {
  const isOn = $("source-paint").checked;
  $("source-mask").hidden = !isOn;
  $("source-clear").hidden = !isOn;
  if (isOn) clear();
}

// Setting the size also clears a canvas.
function clear() {
  const image = $("source-image");
  Object.assign($("source-mask"), { width: image.naturalWidth, height: image.naturalHeight });
  isPainted = false;
}

// A line from the last point: a quick finger leaves gaps between two events.
function paint(event) {
  if (!event.buttons) return;
  const canvas = $("source-mask");
  const scale = canvas.width / canvas.clientWidth;
  const point = [event.offsetX * scale, event.offsetY * scale];
  const context = canvas.getContext("2d");
  Object.assign(context, { strokeStyle: "#f0f", lineCap: "round", lineWidth: canvas.width * BRUSH });
  context.beginPath();
  context.moveTo(...(event.type === "pointerdown" ? point : last));
  // A line without a length is not drawn, so a point is a short one.
  context.lineTo(point[0] + 0.01, point[1]);
  context.stroke();
  last = point;
  isPainted = true;
}

$("source-mask").addEventListener("pointerdown", paint);
$("source-mask").addEventListener("pointermove", paint);
$("source-paint").addEventListener("change", showMask);
$("source-clear").addEventListener("click", clear);
$("source-remove").addEventListener("click", () => { forget(); $("picture-prompt").focus(); });
$("source-image").addEventListener("error", () => {
  forget();
  tell("picture-status", "This file is not a picture that the browser can show.");
});
$("picture-file").addEventListener("change", () => {
  const [file] = $("picture-file").files;
  if (file) use(file, file.name);
});
