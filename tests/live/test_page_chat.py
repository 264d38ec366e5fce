"""The chat of the page in a real browser: Markdown, history, models, waiting, pictures.

Screenshots are kept in the folder that HORDE_PROXY_ARTEFACTS names.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, jsonify, request

from horde_proxy import create_app
from horde_proxy.config import load
from horde_proxy.pictures import Raster
from tests.live.chromium import PROGRAM, Chromium
from tests.live.processes import until
from tests.live.test_page import axe, click, is_from, looked_at, serving, text_of, write

__all__ = ["axe"]

pytestmark = [
    pytest.mark.skipif(not PROGRAM, reason="chromium is not installed"),
    pytest.mark.timeout(180),
]

STATUS = "document.getElementById('chat-status').textContent"
ANSWERS = (
    "[...document.querySelectorAll('.turn.assistant > .text')].map((place) => place.innerText)"
)
TURNS = "document.querySelectorAll('.turn').length"
ESCAPE, UP, DOWN = 27, 38, 40
GUIDE = """Here is a **short** guide, with `code` and [a link](https://example.org/guide).

## Steps

1. Install it
2. Start it:

```python
def hello(name):
    print(f"Hello, {name}!")
```

| Model | Speed |
|-------|------:|
| Nova  | 25    |
| Vega  | 8     |

> Quoted, as people do.
"""


class Server:
    """An OpenAI-compatible server that streams what a test tells it to.

    `pieces` are the deltas; the stream waits before each piece that is a threading.Event.
    """

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.pieces: list[Any] = []
        self.models = ["nova-8b"]
        self.refuses: dict[str, Any] | None = None
        self.app = Flask("server")
        self.app.get("/v1/models")(self._models)
        self.app.post("/v1/chat/completions")(self._chat)

    def _models(self) -> Any:
        entries = [{"id": name, "object": "model", "context_length": 8192} for name in self.models]
        return jsonify(data=entries)

    def _chat(self) -> Any:
        self.bodies.append(request.get_json())
        if self.refuses is not None:
            return jsonify(error=self.refuses), 400
        return self._stream(self.bodies[-1]["model"]), {"Content-Type": "text/event-stream"}

    def _stream(self, model: str) -> Iterator[str]:
        for piece in self.pieces:
            if isinstance(piece, threading.Event):
                piece.wait(60)
                continue
            delta = piece if isinstance(piece, dict) else {"content": piece}
            yield self._line(model, {"index": 0, "delta": delta, "finish_reason": None})
        yield self._line(model, {"index": 0, "delta": {}, "finish_reason": "stop"})
        yield "data: [DONE]\n\n"

    def _line(self, model: str, choice: dict[str, Any]) -> str:
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model}
        return f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n"


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def url(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a proxy in front of the server."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with serving(server.app) as upstream:
        flags = {"endpoints": [{"url": upstream, "name": "attic"}]}
        with serving(create_app(load(environ={}, flags=flags))) as proxy:
            yield proxy


def say(browser: Chromium, text: str) -> None:
    write(browser, "chat-text", text)
    browser.press("Enter", "\r")


def done(browser: Chromium, answers: int) -> list[str]:
    browser.until(f"{STATUS} === 'Done.' && {ANSWERS}.length === {answers}")
    return list(browser.evaluate(ANSWERS))


def ready(browser: Chromium, url: str) -> None:
    browser.size(1280)
    browser.open(url)
    browser.until("document.getElementById('chats-note').textContent !== ''")


def test_a_whole_conversation(server: Server, url: str, browser: Chromium) -> None:
    """Enter sends, another answer and another question stand beside the first; all is kept."""
    ready(browser, url)
    server.pieces = ["Blue ", "light."]
    say(browser, "Why is the sky blue?")
    assert done(browser, 1) == ["Blue light."]
    assert text_of(browser, "#chat-title") == "Why is the sky blue?"
    assert text_of(browser, ".turn.assistant h3") == "nova-8b, at attic"
    server.pieces = ["It scatters."]
    click(browser, ".turn.assistant [title='Get another answer']")
    browser.until(f"{ANSWERS}[0] === 'It scatters.' && {STATUS} === 'Done.'")
    assert text_of(browser, ".turn.assistant .tools span") == "2 of 2"
    click(browser, ".turn.assistant [title='The version before']")
    assert browser.evaluate(ANSWERS) == ["Blue light."]
    server.pieces = ["At sunset."]
    say(browser, "And red?")
    assert done(browser, 2) == ["Blue light.", "At sunset."]
    assert [message["content"] for message in server.bodies[-1]["messages"]] == [
        "Why is the sky blue?",
        "Blue light.",
        "And red?",
    ]
    server.pieces = ["The sea reflects."]
    click(browser, ".turn.user [title='Edit this message']")
    browser.evaluate("document.querySelector('.editor textarea').select()")
    browser.call("Input.insertText", text="Why is the sea blue?")
    browser.press("Enter", "\r")
    assert done(browser, 1) == ["The sea reflects."]
    assert [message["content"] for message in server.bodies[-1]["messages"]] == [
        "Why is the sea blue?"
    ]
    ready(browser, url)
    browser.until(f"{TURNS} === 2")
    assert browser.evaluate(ANSWERS) == ["The sea reflects."]
    click(browser, ".turn.user [title='The version before']")
    assert browser.evaluate(ANSWERS) == ["Blue light.", "At sunset."]
    assert browser.console == []
    assert is_from(browser, url)


def test_stop_keeps_what_has_come(server: Server, url: str, browser: Chromium) -> None:
    ready(browser, url)
    server.pieces = ["Once upon ", hold := threading.Event(), "a time"]
    say(browser, "Tell a story")
    browser.until(f"{ANSWERS}[0]?.trim() === 'Once upon'")
    browser.until(f"{STATUS} === 'Writing…'")
    click(browser, "#chat-stop")
    browser.until(f"{STATUS} === 'Stopped.'")
    hold.set()
    assert text_of(browser, ".turn.assistant > p.quiet") == "Stopped here."
    server.pieces = ["And then?"]
    say(browser, "Go on")
    assert done(browser, 2) == ["Once upon ".strip(), "And then?"]
    assert server.bodies[-1]["messages"][1] == {"role": "assistant", "content": "Once upon "}


def test_an_error_is_said_in_words_and_can_be_tried_again(
    server: Server, url: str, browser: Chromium
) -> None:
    ready(browser, url)
    server.refuses = {"message": "The attic is cold.", "type": "invalid_request_error"}
    say(browser, "Hello")
    browser.until(f"{STATUS} === 'It failed.'")
    assert "The attic is cold." in text_of(browser, ".turn.failed .error")
    server.refuses = None
    server.pieces = ["Warm now."]
    click(browser, ".turn.failed [title='Get another answer']")
    assert done(browser, 1) == ["Warm now."]
    assert browser.evaluate("document.querySelector('.turn.failed')") is None
    assert server.bodies[-1]["messages"] == [{"role": "user", "content": "Hello"}]
    browser.evaluate("window.fetch = async () => { throw new TypeError('Failed to fetch') }; 0")
    say(browser, "Nobody hears this")
    browser.until(f"{STATUS} === 'It failed.'")
    assert text_of(browser, ".turn.failed .error") == (
        "The proxy cannot be reached. Is it running, and are you connected?"
    )


def test_reasoning_is_folded(server: Server, url: str, browser: Chromium) -> None:
    ready(browser, url)
    server.pieces = [
        {"reasoning_content": "Let me *think*."},
        hold := threading.Event(),
        "Forty-two.",
    ]
    say(browser, "The answer?")
    browser.until("document.querySelector('.reasoning summary')?.textContent === 'Thinking'")
    browser.until(f"{STATUS} === 'Thinking…'")
    hold.set()
    browser.until(f"{STATUS} === 'Done.'")
    assert text_of(browser, ".reasoning summary") == "Thought for 1 s"
    assert browser.evaluate("document.querySelector('.reasoning').open") is False
    assert browser.evaluate("document.querySelector('.reasoning em').textContent") == "think"
    assert text_of(browser, ".turn.assistant > .text") == "Forty-two."


def test_chats_are_listed_searched_renamed_exported_and_deleted(
    server: Server, url: str, browser: Chromium
) -> None:
    titles = "[...document.querySelectorAll('#chats-list span')].map((each) => each.textContent)"
    ready(browser, url)
    server.pieces = ["Apples and pears."]
    say(browser, "Name fruit")
    done(browser, 1)
    click(browser, "#chat-new")
    say(browser, "Name trees")
    done(browser, 1)
    assert browser.evaluate(titles) == ["Name trees", "Name fruit"]
    write(browser, "chats-search", "FRUIT pears")
    browser.until(f"{titles}.length === 1")
    assert browser.evaluate(titles) == ["Name fruit"]
    click(browser, "#chats-list button")
    assert text_of(browser, "#chat-title") == "Name fruit"
    browser.evaluate("document.getElementById('chats-search').value = ''; 0")
    click(browser, "#chat-rename")
    browser.evaluate("document.getElementById('chat-name').select()")
    browser.call("Input.insertText", text="Fruit")
    browser.press("Enter", "\r")
    browser.until(f"{titles}.includes('Fruit')")
    saved = """new Promise((resolve) => {
      URL.createObjectURL = (blob) => { blob.text().then(resolve); return 'blob:none'; };
      HTMLAnchorElement.prototype.click = () => {};
      document.getElementById(%r).click();
    })"""
    assert browser.evaluate(saved % "chat-markdown") == (
        "# Fruit\n\n## You\n\nName fruit\n\n## nova-8b\n\nApples and pears.\n"
    )
    exported = json.loads(browser.evaluate(saved % "chats-export"))
    assert exported["format"] == "horde-proxy chats"
    assert sorted(one["title"] for one in exported["chats"]) == ["Fruit", "Name trees"]
    click(browser, "#chat-delete")
    click(browser, "#chat-yes")
    browser.until(f"{titles}.length === 1")
    click(browser, "#chats-delete")
    click(browser, "#chat-yes")
    browser.until(f"{titles}.length === 0")
    ready(browser, url)
    assert browser.evaluate(titles) == []


def test_a_chat_goes_on_unseen_while_another_one_is_read(
    server: Server, url: str, browser: Chromium
) -> None:
    ready(browser, url)
    server.pieces = ["One ", hold := threading.Event(), "two."]
    say(browser, "Count")
    browser.until(f"{ANSWERS}[0]?.trim() === 'One'")
    click(browser, "#chat-new")
    assert browser.evaluate(TURNS) == 0
    say(browser, "Too early")
    assert text_of(browser, "#chat-problem") == (
        "The chat “Count” is still being answered. Wait for it, or stop it there."
    )
    assert browser.evaluate("document.getElementById('chat-text').value") == "Too early"
    click(browser, "#chats-list button")
    assert browser.evaluate(STATUS) != "Done."
    hold.set()
    browser.until(f"{ANSWERS}[0] === 'One two.'")


def test_the_proxy_refuses_no_settings_of_the_chat(
    server: Server, url: str, browser: Chromium
) -> None:
    ready(browser, url)
    server.pieces = ["Arr."]
    click(browser, ".chat-settings summary")
    write(browser, "chat-system", "You are a pirate.")
    write(browser, "chat-temperature", "0.3")
    write(browser, "chat-tokens", "99")
    say(browser, "Hello")
    done(browser, 1)
    body = server.bodies[-1]
    assert body["messages"][0] == {"role": "system", "content": "You are a pirate."}
    assert (body["temperature"], body["max_tokens"]) == (0.3, 99)


def test_the_picker_finds_one_of_300_models_by_keyboard(
    server: Server, url: str, browser: Chromium, artefacts: Path, axe: str
) -> None:
    server.models = [f"koboldcpp/Model-{number}-Instruct-Q4_K_M" for number in range(300)]
    ready(browser, url)
    options = (
        "[...document.querySelectorAll('#chat-models [role=option]')]"
        ".map((option) => option.dataset.name)"
    )
    assert browser.evaluate("document.getElementById('chat-model').value") == "auto"
    browser.evaluate("document.getElementById('chat-model').focus()")
    press(browser, "ArrowDown", DOWN)
    assert browser.evaluate(f"{options}.length") == 302
    assert browser.evaluate(options)[:3] == ["auto", "fast", server.models[0]]
    assert browser.evaluate("document.getElementById('chat-model').ariaExpanded") == "true"
    press(browser, "ArrowDown", DOWN)
    active = "document.getElementById('chat-model').getAttribute('aria-activedescendant')"
    assert browser.evaluate(f"document.getElementById({active}).dataset.name") == "fast"
    assert looked_at(browser, axe, artefacts, "chat-models") == []
    browser.evaluate("document.getElementById('chat-model').select()")
    began = browser.evaluate("performance.now()")
    browser.call("Input.insertText", text="model 29 q4")
    browser.until(f"{options}.length === 13")
    assert browser.evaluate("performance.now()") - began < 2000
    press(browser, "ArrowDown", DOWN)
    browser.press("Enter", "\r")
    chosen = "koboldcpp/Model-129-Instruct-Q4_K_M"
    assert browser.evaluate("document.getElementById('chat-model').value") == chosen
    assert browser.evaluate("document.getElementById('chat-models').hidden") is True
    server.pieces = ["Hello."]
    say(browser, "Hello")
    done(browser, 1)
    assert server.bodies[-1]["model"] == chosen
    browser.evaluate("document.getElementById('chat-model').focus()")
    browser.call("Input.insertText", text="nothing like it")
    press(browser, "Escape", ESCAPE)
    assert browser.evaluate("document.getElementById('chat-model').value") == chosen
    ready(browser, url)
    assert browser.evaluate("document.getElementById('chat-model').value") == chosen


def press(browser: Chromium, key: str, code: int) -> None:
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)


def test_chats_of_another_key_are_not_shown(
    server: Server, browser: Chromium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who logs in again with the first key finds them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    titles = "[...document.querySelectorAll('#chats-list span')].map((each) => each.textContent)"
    keys = {"ann": "key-of-ann-0123456789", "bob": "key-of-bob-0123456789"}
    access = {"mode": "keys", "keys": keys, "database": f"sqlite:///{tmp_path}/ledger.db"}
    server.pieces = ["Hello Ann."]

    def log_in(name: str) -> None:
        browser.until("document.getElementById('key') !== null")
        write(browser, "key", keys[name])
        browser.press("Enter", "\r")
        browser.until("document.getElementById('chats-note')?.textContent")

    with serving(server.app) as upstream:
        flags = {"endpoints": [{"url": upstream, "name": "attic"}], "access": access}
        with serving(create_app(load(environ={}, flags=flags))) as proxy:
            browser.size(1280)
            browser.open(proxy)
            log_in("ann")
            say(browser, "I am Ann")
            done(browser, 1)
            click(browser, ".who button")
            log_in("bob")
            assert browser.evaluate(titles) == []
            click(browser, ".who button")
            log_in("ann")
            assert browser.evaluate(titles) == ["I am Ann"]
            assert browser.console == []


def test_a_picture_goes_with_a_message(
    server: Server, url: str, browser: Chromium, tmp_path: Path
) -> None:
    """A large one is made smaller; a file that is no picture is refused in words."""
    ready(browser, url)
    large, text = tmp_path / "large.png", tmp_path / "text.png"
    large.write_bytes(Raster.plain(2000, 1000, (200, 80, 20)).encoded("png"))
    text.write_bytes(b"no picture")
    choose_files(browser, large)
    browser.until("document.querySelector('#chat-attached img')?.naturalWidth === 1568")
    choose_files(browser, text)
    browser.until("!document.getElementById('chat-problem').hidden")
    assert text_of(browser, "#chat-problem") == (
        "text.png is not a picture that this browser can read."
    )
    server.pieces = ["Orange."]
    say(browser, "Which colour?")
    done(browser, 1)
    words, picture = server.bodies[-1]["messages"][0]["content"]
    assert words == {"type": "text", "text": "Which colour?"}
    kind, _, data = picture["image_url"]["url"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert base64.b64decode(data)[:3] == b"\xff\xd8\xff"
    ready(browser, url)
    browser.until("document.querySelector('.turn.user img')?.naturalWidth === 1568")


def choose_files(browser: Chromium, path: Path) -> None:
    field = browser.call("Runtime.evaluate", expression="document.getElementById('chat-file')")
    browser.call("DOM.setFileInputFiles", files=[str(path)], objectId=field["result"]["objectId"])


def test_the_chat_looks_well_on_a_phone_and_a_desktop(
    server: Server, url: str, browser: Chromium, axe: str, artefacts: Path
) -> None:
    ready(browser, url)
    assert looked_at(browser, axe, artefacts, "chat-empty") == []
    server.pieces = [{"reasoning_content": "A guide is wanted."}, GUIDE]
    say(browser, "How do I start?\nPlease be short.")
    done(browser, 1)
    write(browser, "chat-text", "Thank you, and")
    assert looked_at(browser, axe, artefacts, "chat") == []
    browser.size(390)
    click(browser, "#chats-open")
    assert looked_at(browser, axe, artefacts, "chat-drawer") == []
    assert browser.console == []


# Markdown as elements.

MARKDOWN = """(async (text) => {
  const { nodesOf } = await import('./page/static/markdown.js');
  const place = document.createElement('div');
  place.append(nodesOf(text));
  return place.innerHTML;
})(%s)"""


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a *b* **c** `d` ~~e~~", "<p>a <em>b</em> <strong>c</strong> <code>d</code> <s>e</s></p>"),
        ("# One\n### Three", '<h4 class="level-1">One</h4><h4 class="level-3">Three</h4>'),
        ("- a\n- b\n  - c", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("> a\n\n---", "<blockquote><p>a</p></blockquote><hr>"),
        ("a  \nb\nc", "<p>a<br>b\nc</p>"),
        (
            "|a|b|\n|-|-:|\n|c|d|",
            '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table><thead><tr>'
            '<th>a</th><th class="right">b</th></tr></thead><tbody><tr><td>c</td>'
            '<td class="right">d</td></tr></tbody></table></div>',
        ),
        (
            "```py\nx < 1\n",
            '<div class="code"><div class="bar"><span>py</span><button type="button">Copy</button>'
            '</div><pre tabindex="0" role="group" aria-label="Code in py"><code>x &lt; 1</code>'
            "</pre></div>",
        ),
        (
            "[a](https://example.org) mailto:a@example.org",
            '<p><a href="https://example.org" target="_blank" rel="noopener noreferrer">a</a> '
            '<a href="mailto:a@example.org" target="_blank" rel="noopener noreferrer">'
            "mailto:a@example.org</a></p>",
        ),
        (
            "![a fox](https://example.org/x.png)",
            '<p><a href="https://example.org/x.png" target="_blank" rel="noopener noreferrer">'
            "a fox (a picture at example.org)</a></p>",
        ),
        # new URL() throws for these, which are links to markdown-it.
        *(
            (
                f"![a fox]({source})",
                f'<p><a href="{href}" target="_blank" rel="noopener noreferrer">a fox</a></p>',
            )
            for source, href in (
                ("http://", "http://"),
                ("http://[", "http://%5B"),
                ("http://a:99999/", "http://a:99999/"),
                ("mailto:a@example.org", "mailto:a@example.org"),
            )
        ),
        ("README.md and user@host", "<p>README.md and user@host</p>"),
        # What is hostile stays a text.
        ("<script>hacked=1</script>", "<p>&lt;script&gt;hacked=1&lt;/script&gt;</p>"),
        ("<b onclick=hacked=1>x</b>", "<p>&lt;b onclick=hacked=1&gt;x&lt;/b&gt;</p>"),
        ("[a](javascript:hacked=1)", "<p>[a](javascript:hacked=1)</p>"),
        ("[a](JAVA&#115;CRIPT:hacked=1)", "<p>[a](JAVAsCRIPT:hacked=1)</p>"),
        ("[a](data:text/html,x)", "<p>[a](data:text/html,x)</p>"),
        ("[a](vbscript:x) [b](file:///x)", "<p>[a](vbscript:x) [b](file:///x)</p>"),
        ("[a](/page/logout)", "<p>[a](/page/logout)</p>"),
        ("![a](data:image/svg+xml,x)", "<p>![a](data:image/svg+xml,x)</p>"),
        ("<javascript:hacked=1>", "<p>&lt;javascript:hacked=1&gt;</p>"),
        (
            '[a](https://x.org"onclick="hacked=1)',
            '<p><a href="https://x.org%22onclick=%22hacked=1" target="_blank" '
            'rel="noopener noreferrer">a</a></p>',
        ),
    ],
)
def test_markdown_becomes_elements(text: str, html: str, page: Chromium) -> None:
    assert page.evaluate(MARKDOWN % json.dumps(text)) == html
    assert page.evaluate("typeof hacked") == "undefined"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A browser with the page, for tests that only call its modules."""
    server, folder = Server(), tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        with serving(server.app) as upstream:
            flags = {"endpoints": [{"url": upstream, "name": "attic"}]}
            with serving(create_app(load(environ={}, flags=flags))) as proxy:
                browser = Chromium(folder / "profile")
                browser.open(proxy)
                yield browser
                browser.close()


HOSTILE = {
    "quotes": "> " * 10_000 + "a",
    "lists": "- " * 10_000 + "a",
    "steps": "\n".join("  " * level + "- a" for level in range(1000)),
    "brackets": "[" * 10_000 + "a" + "]" * 10_000,
    "pictures": "![" * 10_000,
    "stars": "*a **a " * 10_000,
    "backticks": "".join("e" + "`" * count for count in range(500)),
    "definitions": "[a]: b\n" * 10_000 + "[a]" * 10_000,
    "pipes": "|" * 5000 + "\n" + "|-" * 5000 + "|\n" + "|a" * 5000,
    "angles": "<" * 50_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_markdown_takes_seconds_at_most(name: str, page: Chromium) -> None:
    """The bound is far above what it takes: marked needed minutes for some of them."""
    began = time.monotonic()
    html = page.evaluate(MARKDOWN % json.dumps(HOSTILE[name]))
    assert time.monotonic() - began < 20
    assert html


def test_what_is_nested_too_deeply_is_shown_as_it_was_written(page: Chromium) -> None:
    text = "> " * 200 + "deep"
    html = page.evaluate(MARKDOWN % json.dumps(text))
    assert html == f'<p class="plain">{text.replace(">", "&gt;")}</p>'


GROWING = """(async (text, size) => {
  const { GrowingMarkdown, nodesOf } = await import('./page/static/markdown.js');
  const grown = document.createElement('div'), whole = document.createElement('div');
  const growing = new GrowingMarkdown(grown);
  let first = null, isKept = true;
  for (let end = size; end < text.length + size; end += size) {
    growing.show(text.slice(0, end));
    if (end > 400) { first ??= grown.firstChild; isKept &&= first === grown.firstChild; }
  }
  growing.end();
  whole.append(nodesOf(text));
  return [grown.innerHTML === whole.innerHTML, isKept, grown.innerHTML];
})(%s, %d)"""


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_growing_text_becomes_what_the_whole_text_is(
    size: int, newline: str, page: Chromium
) -> None:
    """Blocks that are complete are not drawn again."""
    text = (GUIDE * 3 + "Title\n===\n- a\n\n  more\n- b\n\nend").replace("\n", newline)
    is_same, is_kept, _ = page.evaluate(GROWING % (json.dumps(text), size))
    assert (is_same, is_kept) == (True, True)


def test_a_link_whose_address_comes_last_becomes_a_link(page: Chromium) -> None:
    _, _, html = page.evaluate(
        GROWING % (json.dumps("See [the guide].\n\n[the guide]: https://example.org"), 5)
    )
    assert html == (
        '<p>See <a href="https://example.org" target="_blank" rel="noopener noreferrer">'
        "the guide</a>.</p>"
    )


# Words for a wait.


@pytest.mark.parametrize(
    ("comment", "passed", "words"),
    [
        ("queued, position 3, about 20 s", 0, "3rd in line at attic, about 20 s"),
        ("queued, position 3, about 20 s", 6.5, "3rd in line at attic, about 14 s"),
        ("queued, position 1, about 200 s", 0, "1st in line at attic, about 3 min 20 s"),
        ("in line, position 12", 0, "12th in line at attic"),
        ("in line, position 22", 0, "22nd in line at attic"),
        ("queued", 0, "In line at attic"),
        ("generating, about 5 s", 9, "Being written at attic"),
        ("held back, position 2", 0, "2nd in this proxy's own line"),
        ("waking, about 60 s", 0, "Booting attic, about 1 min"),
        ("horde unreachable", 0, "The horde does not answer; trying again"),
        ("something new", 0, "something new"),
    ],
)
def test_a_wait_is_told_in_words(comment: str, passed: float, words: str, page: Chromium) -> None:
    call = "(async (...told) => (await import('./page/static/waiting.js')).waitingWords(...told))"
    arguments = json.dumps([comment, "attic", passed])[1:-1]
    assert page.evaluate(f"{call}({arguments})") == words


# What is kept.

STORE = """(async () => {
  const kept = await import('./page/static/conversations.js');
  const { add, newConversation } = await import('./page/static/conversation.js');
  %s
})()"""


def test_a_full_store_says_so_and_loses_nothing(page: Chromium) -> None:
    message = page.evaluate(
        STORE
        % """
        for (let count = 0; count < kept.MOST_CHATS; count += 1) {
          const chat = newConversation();
          add(chat, "", { role: "user", content: `chat ${count}` });
          await kept.save(chat);
        }
        const one = newConversation();
        const message = await kept.save(one).catch((error) => error.message);
        const count = kept.list().length;
        await kept.removeAll();
        return `${count} ${message}`;"""
    )
    assert message == (
        "500 This browser keeps 500 chats, and this one is too many. "
        "Delete some, or export them first."
    )


def test_messages_of_two_tabs_are_both_kept(page: Chromium) -> None:
    texts = page.evaluate(
        STORE
        % """
        const { merged } = await import('./page/static/conversation.js');
        const chat = newConversation();
        const first = add(chat, "", { role: "user", content: "first" });
        const other = structuredClone(chat);
        add(chat, first.id, { role: "user", content: "here" });
        add(other, first.id, { role: "user", content: "there" });
        return Object.values(merged(chat, other).nodes).map((node) => node.content).sort();"""
    )
    assert texts == ["first", "here", "there"]


# What an open page asks for.


def test_a_hidden_tab_asks_for_nothing(url: str, browser: Chromium) -> None:
    """A minute passes in the browser's own time."""
    ready(browser, url)
    browser.until("document.getElementById('live').textContent === 'live'")
    hide = "Object.defineProperty(document, 'hidden', { configurable: true, get: () => %s });"
    change = "document.dispatchEvent(new Event('visibilitychange')); 0"
    browser.evaluate(hide % "true" + change)
    before = len(browser.requests)
    browser.call("Emulation.setVirtualTimePolicy", policy="advance", budget=60_000)
    browser.until("performance.now() > 60000", 60)
    assert browser.requests[before:] == []
    browser.evaluate(hide % "false" + change)
    until(lambda: browser.evaluate("1") and len(browser.requests) > before)
    assert f"{url}/page/live" in [path.split("?")[0] for path in browser.requests[before:]]
