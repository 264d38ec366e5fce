// The pictures of this proxy that an answer links to. Pictures of other servers are not loaded: that
// would tell these servers who reads the answer.
import { make } from "./elements.js";

// "/v1/files/images/Ab1...x_.png": what the proxy's own links end with.
const PATH = /\/v1\/files\/images\/([\w-]{32}\.(?:png|jpeg|webp|gif))$/;

function hostsOf() {
  const { publicUrl } = document.body.dataset;
  return [location.host, ...(publicUrl ? [new URL(publicUrl).host] : [])];
}

// The path of a picture of this proxy, below the page's own address; null for any other link.
export function pathOf(link) {
  if (!URL.canParse(link, document.baseURI)) return null;
  const { host, pathname } = new URL(link, document.baseURI);
  const name = hostsOf().includes(host) && pathname.match(PATH)?.[1];
  return name ? `v1/files/images/${name}` : null;
}

export function pictureOf(path, alt) {
  const image = make("img", { src: path, alt: alt || "A picture of the answer", loading: "lazy" });
  // A link works for some hours.
  image.addEventListener("error", () => image.replaceWith(`(${image.alt}: this picture is gone)`));
  return image;
}
