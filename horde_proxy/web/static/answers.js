// Requests to the proxy with the visitor's rights, and the events of its answers.
// With a login, the routes of the page take the session's cookie; without, those of all clients.
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

// An error of a server between us and the proxy is not JSON.
async function problemOf(response) {
  const answer = await response.json().catch(() => null);
  return answer?.error?.message || `The answer was ${response.status} ${response.statusText}`.trim();
}

async function* linesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  // The parts of a line are joined once: that of a picture has some megabytes.
  let parts = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const [first, ...others] = value.split("\n");
    parts.push(first);
    for (const other of others) {
      yield parts.join("");
      parts = [other];
    }
  }
}

// The objects of an event stream; `onComment` gets the texts of its comments.
export async function* eventsOf(response, onComment) {
  for await (const line of linesOf(response)) {
    if (line.startsWith(":")) onComment(line.slice(1).trim());
    // A server's own stream is passed on: its lines may end with "\r" and lack the space.
    const data = line.startsWith("data:") ? line.slice(5).trim() : "";
    if (!data || data === "[DONE]") continue;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message || event.error);
    yield event;
  }
}
