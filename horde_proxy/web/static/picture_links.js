// Shows the pictures of this proxy that an answer links to. Links to other servers stay texts: to load
// one would tell that server who reads the answer.
import { make } from "./elements.js";

// "![a fox](http://127.0.0.1:8080/v1/files/images/Ab1...x_.png)", as models write it in Markdown.
const LINK = /!\[([^\]\n]{0,1000})\]\(([^()\s]{1,2000})\)/g;
const PATH = /\/v1\/files\/images\/([\w-]{32}\.(?:png|jpeg|webp|gif))$/;

function hostsOf() {
  const { publicUrl } = document.body.dataset;
  return [location.host, ...(publicUrl ? [new URL(publicUrl).host] : [])];
}

// The path of a picture of this proxy, below the page's own address; null for any other link.
function pathOf(link) {
  if (!URL.canParse(link, document.baseURI)) return null;
  const { host, pathname } = new URL(link, document.baseURI);
  const name = hostsOf().includes(host) && pathname.match(PATH)?.[1];
  return name ? `v1/files/images/${name}` : null;
}

// Replace the links within the text of an element.
export function showPictures(element) {
  const text = element.textContent;
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(LINK)) {
    const path = pathOf(match[2]);
    if (!path) continue;
    parts.push(text.slice(end, match.index), pictureOf(path, match[1]));
    end = match.index + match[0].length;
  }
  if (parts.length) element.replaceChildren(...parts, text.slice(end));
}

function pictureOf(path, alt) {
  const image = make("img", { src: path, alt: alt || "A picture of the answer" });
  // A link works for some hours.
  image.addEventListener("error", () => image.replaceWith(`(${image.alt}: this picture is gone)`));
  return image;
}
