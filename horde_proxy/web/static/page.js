// Keeps the page up to date, sorts, searches, copies, and chats. Texts only, never markup.
"use strict";
(() => {
  const REFRESH = 15000;
  const SVG = "http://www.w3.org/2000/svg";
  const $ = (id) => document.getElementById(id);
  const body = document.body;
  const shown = {};
  const sorting = {};
  let wanted = "";
  let source = null;
  let soon = 0;

  document.documentElement.classList.add("js");

  function make(name, attributes = {}, ...children) {
    const found = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
    found.append(...children);
    return found;
  }

  function show(element, text, isShown = Boolean(text)) {
    if (element.textContent !== text) element.textContent = text;
    element.hidden = !isShown;
  }

  // For regions that are read aloud: they stay where they are.
  function tell(id, text) {
    if ($(id) && $(id).textContent !== text) $(id).textContent = text;
  }

  // Tables.

  function content(cell) {
    if (cell.iso) {
      const local = new Date(cell.iso).toLocaleString([], {
        day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit",
      });
      return make("time", { datetime: cell.iso, title: cell.text }, local);
    }
    return cell.tone ? make("span", { class: `state ${cell.tone}` }, cell.text) : cell.text;
  }

  function rowOf(table, row, hasCopies) {
    const cells = row.cells.map((cell, place) => {
      const found = place ? make("td") : make("th", { scope: "row" });
      if (table.columns[place].numeric) found.className = "number";
      found.append(content(cell));
      return found;
    });
    if (hasCopies) cells.push(make("td", {}, copyButtons(row.key)));
    return make("tr", {}, ...cells);
  }

  function ordered(table) {
    const order = sorting[table.id];
    if (!order) return table.rows;
    const value = (row) => row.cells[order.column].value;
    const compare = (a, b) =>
      (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
    return [...table.rows].sort((a, b) => order.sign * compare(value(a), value(b)));
  }

  function draw(table) {
    const element = table && $(`table-${table.id}`);
    if (!element) return;
    const isSearched = table.id === "models";
    const view = JSON.stringify([table, sorting[table.id], isSearched && wanted]);
    if (shown[table.id]?.view === view) return;
    shown[table.id] = { view, table };
    const rows = ordered(table).filter((row) =>
      !isSearched || row.key.toLowerCase().includes(wanted));
    const focus = document.activeElement?.dataset?.focus;
    element.tBodies[0].replaceChildren(
      ...rows.map((row) => rowOf(table, row, "copies" in element.dataset)));
    if (focus) element.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus();
    const empty = document.querySelector(`[data-empty="${table.id}"]`);
    show(empty, table.rows.length ? "Nothing is called so." : table.empty, !rows.length);
    if (isSearched) {
      const all = table.rows.length;
      tell("found", wanted ? `${rows.length} of ${all}` : `${all} model${all === 1 ? "" : "s"}`);
      drawChoices(table);
    }
  }

  function makeSortable(element) {
    const id = element.dataset.table;
    element.querySelectorAll("thead th:not(.js-only)").forEach((th, column) => {
      const button = make("button", { type: "button" }, th.textContent);
      button.addEventListener("click", () => {
        const before = sorting[id];
        const isSame = before?.column === column;
        const first = th.classList.contains("number") ? -1 : 1;
        sorting[id] = { column, sign: isSame ? -before.sign : first };
        element.querySelectorAll("thead th").forEach((each) => each.removeAttribute("aria-sort"));
        th.setAttribute("aria-sort", sorting[id].sign > 0 ? "ascending" : "descending");
        if (shown[id]) draw(shown[id].table);
      });
      th.replaceChildren(button);
    });
  }

  // Copying.

  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const base = () => new URL("v1", document.baseURI).href;

  function curlLine(model) {
    const chat = { model, messages: [{ role: "user", content: "Say hello." }] };
    const key = body.dataset.mode === "open" ? "" : ' -H "Authorization: Bearer $API_KEY"';
    return `curl ${quoted(`${base()}/chat/completions`)}${key}`
      + ` -H 'Content-Type: application/json' -d ${quoted(JSON.stringify(chat))}`;
  }

  const opencodeLine = (model) => `opencode run --model ${quoted(`horde/${model}`)} 'Say hello.'`;

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

  function copyButtons(model) {
    const button = (name, line) => {
      const found = make("button", {
        type: "button", "data-focus": `${name} ${model}`,
        "aria-label": `${name}: copy a line for ${model}`,
      }, name);
      found.addEventListener("click", async () => {
        const text = line(model);
        try {
          await copy(text);
          tell("copied", `Copied: ${text}`);
        } catch {
          tell("copied", `Copy this: ${text}`);
        }
      });
      return found;
    };
    return make("div", { class: "copies" },
      button("curl", curlLine), button("opencode", opencodeLine));
  }

  // The other sections.

  function drawChart(chart) {
    const svg = document.querySelector(`[data-chart="${chart.id}"] svg`);
    const view = JSON.stringify(chart);
    if (!svg || shown[`chart ${chart.id}`] === view) return;
    shown[`chart ${chart.id}`] = view;
    const part = (name, attributes, text = "") => {
      const found = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
      found.textContent = text;
      return found;
    };
    svg.replaceChildren(
      part("title", { id: `chart-${chart.id}-title` }, chart.title),
      part("desc", { id: `chart-${chart.id}-desc` }, chart.desc),
      part("path", { class: "grid", d: chart.lines }),
      ...chart.ticks.map(({ x, y, anchor, text }) =>
        part("text", { x, y, "text-anchor": anchor }, text)),
      ...chart.marks.map(({ kind, tone, d }) => part("path", { class: `${kind} ${tone}`, d })),
    );
  }

  function drawAccount(pairs) {
    const list = document.querySelector("[data-account]");
    if (!list || !pairs) return;
    list.replaceChildren(...pairs.map(([label, text]) =>
      make("div", {}, make("dt", {}, label), make("dd", {}, text))));
  }

  function drawChoices(table) {
    const select = $("chat-model");
    const names = table.rows.map((row) => row.key);
    if (JSON.stringify(names) === JSON.stringify([...select.options].map((each) => each.value))) {
      return;
    }
    const before = select.value;
    select.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
    if (names.includes(before)) select.value = before;
  }

  function drawAll(state) {
    [state.running, state.models, state.endpoints, state.hours, state.errors].forEach(draw);
    (state.charts || []).forEach(drawChart);
    drawAccount(state.account);
    show(document.querySelector('[data-problem="models"]'), state.models_error || "");
    keepToken(state.token);
  }

  // Whoever logs in again, in another tab, has another one.
  function keepToken(token) {
    if (!token) return;
    body.dataset.token = token;
    const field = document.querySelector('.who input[name="token"]');
    if (field) field.value = token;
  }

  // Keeping up to date.

  async function refresh() {
    if (document.hidden) return;
    try {
      const response = await fetch("page/state.json", { cache: "no-store" });
      if (response.ok) {
        drawAll(await response.json());
        show($("notice"), "");
      } else if (response.status === 401) {
        stopWatching();
        show($("notice"), "You are no longer logged in. Load the page again to log in.");
      } else {
        show($("notice"), "The proxy does not tell its state now; what you see may be old.");
      }
    } catch {
      show($("notice"), "The proxy cannot be reached; what you see may be old.");
    }
  }

  // When a request came or went, the rest has changed as well.
  function refreshSoon() {
    soon ||= setTimeout(() => { soon = 0; refresh(); }, 2000);
  }

  function watch() {
    const live = $("live");
    if (!live || source || document.hidden) return;
    source = new EventSource("page/events");
    source.onopen = () => { live.textContent = "live"; live.classList.add("on"); };
    source.onmessage = (event) => {
      const { running } = JSON.parse(event.data);
      if (shown.running && shown.running.table.rows.length !== running.rows.length) refreshSoon();
      draw(running);
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
    const found = make("div", { class: `turn ${role}` },
      make("b", {}, role === "user" ? "You" : $("chat-model").value), place);
    $("chat-log").hidden = false;
    $("chat-log").append(found);
    $("chat-log").scrollTop = $("chat-log").scrollHeight;
    return place;
  }

  function request(signal) {
    const headers = { "Content-Type": "application/json" };
    const key = $("chat-key")?.value.trim();
    if (key) headers.Authorization = `Bearer ${key}`;
    if (body.dataset.token) headers["X-Page-Token"] = body.dataset.token;
    const path = body.dataset.mode === "keys" ? "page/chat" : "v1/chat/completions";
    const chat = { model: $("chat-model").value, stream: true, messages };
    return fetch(path, { method: "POST", headers, signal, body: JSON.stringify(chat) });
  }

  // A server in between tells its own errors, and not as JSON.
  async function problemOf(response) {
    const told = await response.json().catch(() => null);
    return told?.error?.message || `The answer was ${response.status} ${response.statusText}`.trim();
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
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const chunk = JSON.parse(line.slice(6));
      if (chunk.error) throw new Error(chunk.error.message);
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
    wanted = $("search").value.trim().toLowerCase();
    if (shown.models) draw(shown.models.table);
  });
  document.querySelectorAll("[data-sortable]").forEach(makeSortable);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stopWatching();
    else { watch(); refresh(); }
  });
  setInterval(refresh, REFRESH);
  refresh();
  watch();
})();
