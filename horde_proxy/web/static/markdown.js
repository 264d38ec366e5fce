// Markdown as elements. markdown-it (markdown-it.js, with its licence beside it) finds the tokens;
// this module makes an element for each, by createElement and text nodes only. HTML within the text
// stays text, links lead to http, https and mailto only, and no picture is loaded but those of this
// proxy.
import markdownit from "./markdown-it.js";
import { copy, make } from "./elements.js";
import { pathOf, pictureOf } from "./picture_links.js";

// Deeper levels than people write: a list in a list has two. markdown-it leaves out what is deeper,
// so that such a text is shown as it was written.
const MOST_LEVELS = 40;
// "https://example.org" and "mailto:a@example.org", but neither "javascript:..." nor "data:...".
const SAFE = /^(?:https?:\/\/|mailto:)/i;
// "[1]: https://example.org" gives an address to a "[1]" that may be anywhere in the text.
const DEFINITION = /^ {0,3}\[[^\]\n]+\]:/m;
// Elements by the names that markdown-it gives to its tokens. Headings are of one level, below that
// of their turn: a screen reader's outline would have holes with those of the text.
const TAGS = {
  blockquote: "blockquote", bullet_list: "ul", em: "em", heading: "h4", list_item: "li",
  ordered_list: "ol", paragraph: "p", s: "s", strong: "strong", table: "table", tbody: "tbody",
  td: "td", th: "th", thead: "thead", tr: "tr",
};

const parser = markdownit({ html: false, linkify: true, maxNesting: MOST_LEVELS });
// "notes.md" and "user@host" in a sentence about programs are no links.
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
// Called for pictures as well. The source of what is refused stays in the text.
parser.validateLink = (link) => SAFE.test(link) || pathOf(link) !== null;

// The nodes of a text, or of the part of it that has these tokens.
export function nodesOf(text) {
  return build(tokensOf(text));
}

function tokensOf(text) {
  const tokens = parser.parse(text, {});
  const isTooDeep = tokens.some((token) => token.level >= MOST_LEVELS - 2);
  return isTooDeep ? [{ type: "plain", content: text, level: 0, nesting: 0, map: [0, 1] }] : tokens;
}

// Open tokens go down, closing ones up: a loop, since a recursion could be made too deep.
function build(tokens) {
  const root = document.createDocumentFragment();
  const open = [root];
  for (const token of tokens) {
    const top = open.at(-1);
    if (token.nesting > 0) open.push(token.hidden ? top : appended(top, opened(token)));
    else if (token.nesting < 0) open.pop();
    else top.append(leafOf(token));
  }
  return root;
}

function appended(parent, element) {
  // A wide table scrolls in a box of its own.
  const isTable = element.localName === "table";
  parent.append(isTable ? make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Table" }, element) : element);
  return element;
}

function opened(token) {
  if (token.type === "link_open") return linkOf(token.attrGet("href"));
  const element = make(TAGS[token.type.replace(/_open$/, "")] || "span");
  if (token.type === "heading_open") element.className = `level-${token.tag.slice(1)}`;
  const start = token.attrGet("start");
  if (start) element.start = Number(start);
  // "text-align:right": a class, since the page allows no style in markup.
  const align = token.attrGet("style")?.split(":")[1];
  if (align === "right" || align === "center") element.className = align;
  return element;
}

function linkOf(href) {
  if (!SAFE.test(href)) return make("span");
  return make("a", { href, target: "_blank", rel: "noopener noreferrer" });
}

function leafOf(token) {
  switch (token.type) {
    case "inline": return build(token.children);
    case "text": return token.content;
    case "softbreak": return "\n";
    case "hardbreak": return make("br");
    case "hr": return make("hr");
    case "code_inline": return make("code", {}, token.content);
    case "fence": return codeOf(token.content, token.info.trim().split(/\s+/)[0]);
    case "code_block": return codeOf(token.content, "");
    case "image": return imageOf(token.attrGet("src"), token.content);
    default: return make("p", { class: "plain" }, token.content);
  }
}

// A picture of this proxy; of any other server a link, which the reader may follow.
function imageOf(source, alt) {
  const path = pathOf(source);
  if (path) return pictureOf(path, alt);
  const link = linkOf(source);
  // "http://" and "http://[" are links to markdown-it, and no addresses: new URL would throw, and
  // the rest of the answer would not be shown.
  const host = URL.canParse(source) ? new URL(source).host : "";
  link.append(host ? `${alt || "picture"} (a picture at ${host})` : alt || "picture");
  return link;
}

function codeOf(text, language) {
  const button = make("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    const isCopied = await copy(text).then(() => true, () => false);
    button.textContent = isCopied ? "Copied" : "Not allowed";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  const bar = make("div", { class: "bar" }, make("span", {}, language), button);
  const label = language ? `Code in ${language}` : "Code";
  const code = make("code", {}, text.replace(/\n$/, ""));
  return make("div", { class: "code" }, bar, make("pre", { tabindex: "0", role: "group", "aria-label": label }, code));
}

// A text that grows: only its last block is drawn again, since those before it cannot change.
export class GrowingMarkdown {
  constructor(place) {
    this.place = place;
    this.text = "";
    this.start = 0;  // where the last block begins
    this.last = [];  // its nodes
  }

  // Show a text that begins with the text before.
  show(text) {
    this.text = text.replace(/\r\n?/g, "\n");
    const tokens = tokensOf(this.text.slice(this.start));
    const index = Math.max(0, tokens.findLastIndex((token) => token.level === 0 && token.nesting >= 0));
    const fixed = build(tokens.slice(0, index));
    const growing = build(tokens.slice(index));
    for (const node of this.last) node.remove();
    this.last = [...growing.childNodes];
    this.place.append(fixed, growing);
    this.start += offsetOf(this.text.slice(this.start), tokens[index]?.map?.[0] ?? 0);
  }

  // The text is complete: what stands at its end may change what stands before.
  end() {
    if (DEFINITION.test(this.text)) this.place.replaceChildren(nodesOf(this.text));
  }
}

function offsetOf(text, line) {
  let offset = 0;
  for (let count = 0; count < line; count += 1) offset = text.indexOf("\n", offset) + 1;
  return offset;
}
