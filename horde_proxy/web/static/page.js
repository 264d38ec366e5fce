// Keeps the page up to date, sorts, searches, copies, and chats.
//
// The server draws everything. Elements with "data-live" get the content that the same element has
// in a newer page (page/live) or in an event (page/events). Only the server's templates make
// markup; what a chat answers is set as text.
"use strict";
(() => {
  const REFRESH = 15000;
  const $ = (id) => document.getElementById(id);
  const body = document.body;
  const drawn = {};    // the server's markup of each live element, by id
  const sorting = {};  // the column and direction of each sorted table, by the id of its rows
  let search = "";
  let source = null;
  let soon = 0;

  document.documentElement.classList.add("js");

  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  function notice(text) {
    $("notice").textContent = text;
    $("notice").hidden = !text;
  }

  // For live regions: screen readers announce a new text only if the element stays the same.
  function tell(id, text) {
    if ($(id) && $(id).textContent !== text) $(id).textContent = text;
  }

  // Live elements.

  function swap(html) {
    const page = new DOMParser().parseFromString(html, "text/html");
    page.querySelectorAll("[data-live]").forEach(update);
  }

  function update(fresh) {
    const element = $(fresh.id);
    if (!element || drawn[fresh.id] === fresh.innerHTML) return;
    drawn[fresh.id] = fresh.innerHTML;
    const choice = element.value;
    const focus = element.contains(document.activeElement) && document.activeElement.dataset.focus;
    element.replaceChildren(...fresh.childNodes);
    element.hidden = fresh.hidden;
    if ([...(element.options || [])].some((option) => option.value === choice)) {
      element.value = choice;
    }
    if (element.rows) arrange(element);
    if (focus) element.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus();
  }

  // Tables.

  function arrange(rows) {
    const all = [...rows.rows];
    sort(rows, all);
    rows.querySelectorAll("time:not([title])").forEach(showLocally);
    const isSearched = rows.id === "rows-models";
    if (isSearched) {
      for (const row of all) row.hidden = !row.dataset.name.toLowerCase().includes(search);
    }
    const shown = all.filter((row) => !row.hidden).length;
    const empty = $(rows.id.replace("rows-", "empty-"));
    empty.textContent = all.length ? "No match." : empty.dataset.empty;
    empty.hidden = shown > 0;
    if (isSearched) {
      const total = `${all.length} model${all.length === 1 ? "" : "s"}`;
      tell("found", search ? `${shown} of ${all.length}` : total);
    }
  }

  function sort(rows, all) {
    const order = sorting[rows.id];
    if (!order) return;
    const value = (row) => row.cells[order.column].dataset.value;
    const compare = order.isNumber
      ? (a, b) => a - b
      : (a, b) => a.localeCompare(b, undefined, { numeric: true });
    all.sort((a, b) => order.sign * compare(value(a), value(b)));
    rows.append(...all);
  }

  function showLocally(time) {
    time.title = time.textContent;
    time.textContent = new Date(time.dateTime).toLocaleString([], {
      day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit",
    });
  }

  function makeSortable(table) {
    const rows = table.tBodies[0];
    table.querySelectorAll("thead th:not(.js-only)").forEach((th, column) => {
      const button = make("button", { type: "button" }, th.textContent);
      button.addEventListener("click", () => {
        const before = sorting[rows.id];
        const isNumber = th.classList.contains("number");
        const isSame = before?.column === column;
        const sign = isSame ? -before.sign : isNumber ? -1 : 1;
        sorting[rows.id] = { column, isNumber, sign };
        table.querySelectorAll("thead th").forEach((head) => head.removeAttribute("aria-sort"));
        th.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        arrange(rows);
      });
      th.replaceChildren(button);
    });
  }

  // Copying.

  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const base = () => new URL("v1", document.baseURI).href;
  const lines = {
    curl: (model) => {
      const chat = { model, messages: [{ role: "user", content: "Say hello." }] };
      const key = body.dataset.mode === "open" ? "" : ' -H "Authorization: Bearer $API_KEY"';
      return `curl ${quoted(`${base()}/chat/completions`)}${key}`
        + ` -H 'Content-Type: application/json' -d ${quoted(JSON.stringify(chat))}`;
    },
    opencode: (model) => `opencode run --model ${quoted(`horde/${model}`)} 'Say hello.'`,
  };

  async function copy(text) {
    if (navigator.clipboard) {
      try { return void await navigator.clipboard.writeText(text); } catch { /* the older way */ }
    }
    const field = make("textarea", { class: "hidden", "aria-hidden": "true" });
    field.value = text;
    body.append(field);
    const before = document.activeElement;
    field.select();
    const isCopied = document.execCommand("copy");
    field.remove();
    before?.focus();
    if (!isCopied) throw new Error("not copied");
  }

  async function copyLine(button) {
    const text = lines[button.dataset.copy](button.closest("tr").dataset.name);
    try {
      await copy(text);
      tell("copied", `Copied: ${text}`);
    } catch {
      tell("copied", `Copy this: ${text}`);
    }
  }

  // Keeping up to date.

  async function refresh() {
    if (document.hidden) return;
    try {
      const response = await fetch("page/live", { cache: "no-store" });
      if (response.ok) {
        swap(await response.text());
        notice("");
      } else if (response.status === 401) {
        stopWatching();
        notice("You are no longer logged in. Load the page again to log in.");
      } else {
        notice("The proxy cannot show its state right now. This page may be out of date.");
      }
    } catch {
      notice("The proxy cannot be reached. This page may be out of date.");
    }
  }

  // When a request has started or ended, other parts of the page change, too.
  function refreshSoon() {
    soon ||= setTimeout(() => { soon = 0; refresh(); }, 2000);
  }

  function watch() {
    const live = $("live");
    if (!live || source || document.hidden) return;
    source = new EventSource("page/events");
    source.onopen = () => { live.textContent = "live"; live.classList.add("on"); };
    source.onmessage = (event) => {
      const { length } = $("rows-running").rows;
      swap(JSON.parse(event.data).html);
      if ($("rows-running").rows.length !== length) refreshSoon();
    };
    source.onerror = () => {
      live.classList.remove("on");
      const isOver = source && source.readyState === EventSource.CLOSED;
      live.textContent = isOver ? "every 15 seconds" : "connecting again";
      if (isOver) { stopWatching(); setTimeout(watch, 2 * REFRESH); }
    };
  }

  function stopWatching() {
    source?.close();
    source = null;
    $("live")?.classList.remove("on");
  }

  // The chat.

  const messages = [];
  let stopping = null;

  function turn(role, text) {
    const place = make("p", {}, text);
    const name = role === "user" ? "You" : $("chat-model").value;
    $("chat-log").hidden = false;
    $("chat-log").append(make("div", { class: `turn ${role}` }, make("b", {}, name), place));
    $("chat-log").scrollTop = $("chat-log").scrollHeight;
    return place;
  }

  function request(signal) {
    const headers = { "Content-Type": "application/json" };
    const key = $("chat-key")?.value.trim();
    if (key) headers.Authorization = `Bearer ${key}`;
    // From the logout form, which page/live updates after a login in another tab.
    const token = document.querySelector("#visitor [name=token]")?.value;
    if (token) headers["X-Page-Token"] = token;
    const path = body.dataset.mode === "keys" ? "page/chat" : "v1/chat/completions";
    const chat = { model: $("chat-model").value, stream: true, messages };
    return fetch(path, { method: "POST", headers, signal, body: JSON.stringify(chat) });
  }

  // An error of a server between us and the proxy is not JSON.
  async function problemOf(response) {
    const answer = await response.json().catch(() => null);
    return answer?.error?.message || `The answer was ${response.status} ${response.statusText}`.trim();
  }

  async function* linesOf(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      yield* lines;
    }
  }

  async function read(response, place) {
    for await (const line of linesOf(response)) {
      if (line.startsWith(":")) tell("chat-status", line.slice(1).trim());
      // A server's own stream is passed on: its lines may end with "\r" and lack the space.
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (!data || data === "[DONE]") continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message || chunk.error);
      const text = chunk.choices?.[0]?.delta?.content;
      if (text) {
        tell("chat-status", "Writing…");
        place.textContent += text;
        $("chat-log").scrollTop = $("chat-log").scrollHeight;
      }
    }
  }

  async function send() {
    const text = $("chat-text").value.trim();
    if (!text || stopping) return;
    messages.push({ role: "user", content: text });
    turn("user", text);
    $("chat-text").value = "";
    const place = turn("assistant", "");
    stopping = new AbortController();
    setBusy(true);
    try {
      const response = await request(stopping.signal);
      if (!response.ok) throw new Error(await problemOf(response));
      await read(response, place);
      tell("chat-status", "Done.");
    } catch (error) {
      const isStopped = error.name === "AbortError";
      tell("chat-status", isStopped ? "Stopped." : "It failed.");
      if (!isStopped) {
        place.parentElement.classList.add("failed");
        place.textContent += error.message;
      }
    }
    stopping = null;
    setBusy(false);
    $("chat-text").focus();
    if (!place.isConnected) return;
    const isAnswer = place.textContent && !place.parentElement.classList.contains("failed");
    if (isAnswer) messages.push({ role: "assistant", content: place.textContent });
    else messages.pop();
  }

  function setBusy(isBusy) {
    $("chat-log").setAttribute("aria-busy", String(isBusy));
    $("chat-send").disabled = isBusy;
    $("chat-stop").disabled = !isBusy;
    if (isBusy) tell("chat-status", "Sent; waiting for an answer.");
  }

  $("chat-form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  $("chat-text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
  });
  $("chat-stop").addEventListener("click", () => stopping?.abort());
  $("chat-clear").addEventListener("click", () => {
    stopping?.abort();
    messages.length = 0;
    $("chat-log").replaceChildren();
    $("chat-log").hidden = true;
    tell("chat-status", "");
  });
  $("search").addEventListener("input", () => {
    search = $("search").value.trim().toLowerCase();
    arrange($("rows-models"));
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copyLine(button);
  });
  document.querySelectorAll("[data-sortable]").forEach(makeSortable);
  document.querySelectorAll("[data-live]").forEach((element) => {
    drawn[element.id] = element.innerHTML;
    if (element.rows) arrange(element);
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stopWatching();
    else { watch(); refresh(); }
  });
  setInterval(refresh, REFRESH);
  refresh();
  watch();
})();
