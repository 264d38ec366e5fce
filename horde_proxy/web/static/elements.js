// Finding, making and reading elements, for all scripts of the page.

export const $ = (id) => document.getElementById(id);

export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// For live regions: screen readers announce a new text only if the element stays the same.
export function tell(id, text) {
  if ($(id) && $(id).textContent !== text) $(id).textContent = text;
}

export async function copy(text) {
  if (navigator.clipboard) {
    try { return void await navigator.clipboard.writeText(text); } catch { /* the older way */ }
  }
  const field = make("textarea", { class: "hidden", "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  const before = document.activeElement;
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  before?.focus();
  if (!isCopied) throw new Error("not copied");
}
