// Requests to the proxy with the visitor's rights.
// With a login, the routes of the page take the session's cookie; without, those of all clients.
import { problemOf } from "./event_stream.js";

const hasLogin = document.body.dataset.mode === "keys";
const routes = {
  chat: hasLogin ? "page/chat" : "v1/chat/completions",
  generation: hasLogin ? "page/images/generations" : "v1/images/generations",
  edit: hasLogin ? "page/images/edits" : "v1/images/edits",
};

// Where each visitor brings a horde key, it is written in any of the forms, and shown in all.
const keyFields = [...document.querySelectorAll("[data-horde-key]")];
for (const field of keyFields) {
  field.addEventListener("input", () => {
    for (const other of keyFields) other.value = field.value;
  });
}

function headers() {
  const found = {};
  const key = keyFields[0]?.value.trim();
  if (key) found.Authorization = `Bearer ${key}`;
  // From the logout form, which page/live updates after a login in another tab.
  const token = document.querySelector("#visitor [name=token]")?.value;
  if (token) found["X-Page-Token"] = token;
  return found;
}

// The response to a body, an object or a form. Throws an error with the reason where it is refused.
export async function post(route, body, signal) {
  const isForm = body instanceof FormData;
  const type = isForm ? {} : { "Content-Type": "application/json" };
  const response = await fetch(routes[route], {
    method: "POST",
    headers: { ...headers(), ...type },
    signal,
    body: isForm ? body : JSON.stringify(body),
  });
  if (!response.ok) throw new Error(await problemOf(response));
  return response;
}
