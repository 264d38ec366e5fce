// Reads what the proxy answers: the events of a stream, or why there is none. It knows no element
// of any page.

// An error of a server between us and the proxy is not JSON.
export async function problemOf(response) {
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
export async function* eventsOf(response, onComment = () => {}) {
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
