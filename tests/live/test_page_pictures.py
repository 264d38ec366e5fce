"""The page's pictures in a real browser: a proxy in front of a scripted horde that makes pictures.

Screenshots are kept in the folder that HORDE_PROXY_ARTEFACTS names.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask, jsonify, request
from PIL import Image

from horde_proxy import create_app
from horde_proxy.config import load
from horde_proxy.pictures import Raster
from tests.live.chromium import PROGRAM, Chromium
from tests.live.processes import KEY, Processes, free_port, until
from tests.live.test_page import axe, click, is_from, log_in, looked_at, serving, text_of, write
from tests.scripted_images import MODEL, WORKER, ScriptedImages

__all__ = ["axe"]

PNG = base64.b64encode(Raster.plain(64, 64, (9, 9, 9)).encoded("png")).decode()
GUEST = "guest-key-0123456789"
PROMPT = "a fox in snow"
CONTROL = 2
"""The control key, among the modifiers of Chromium's Input.dispatchKeyEvent."""
COUNT = "document.querySelectorAll('#gallery li').length"
SHOWN = (
    "[...document.querySelectorAll('#gallery img')]"
    ".filter((image) => image.complete && image.naturalWidth).length"
)
READ = """async (url) => {
  const bytes = new Uint8Array(await new Promise((resolve) => {
    const image = document.querySelector(`#gallery img[src="${url}"]`);
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    canvas.getContext("2d").drawImage(image, 0, 0, 1, 1);
    resolve(canvas.getContext("2d").getImageData(0, 0, 1, 1).data);
  }));
  return [...bytes].slice(0, 3);
}"""
"""The colour of a picture of the gallery."""

pytestmark = [
    pytest.mark.skipif(not PROGRAM, reason="chromium is not installed"),
]


@pytest.fixture
def horde() -> Iterator[tuple[ScriptedImages, str]]:
    """A scripted horde, and the URL of its API."""
    scripted = ScriptedImages()
    paint(scripted, 200, 80, 20)
    with serving(scripted.app) as url:
        yield scripted, f"{url}/api"


def paint(horde: ScriptedImages, *colour: int) -> None:
    """Have the horde's next picture in one colour, in the horde's own way: base64 of a WebP."""
    red, green, blue = colour
    data = Raster.plain(512, 512, (red, green, blue)).encoded("webp")
    horde.images = [base64.b64encode(data).decode()]


def serve(processes: Processes, horde_url: str, **settings: str) -> str:
    return processes.serve(horde__url=horde_url, server__keepalive_interval="1", **settings)[0]


def until_ready(browser: Chromium) -> None:
    """Wait until the page's script runs and image models are there."""
    browser.until("document.getElementById('live')?.textContent === 'live'")
    browser.until("document.querySelector('#picture-model option') !== null")


def make(browser: Chromium, prompt: str) -> None:
    browser.evaluate("document.getElementById('picture-prompt').value = ''")
    write(browser, "picture-prompt", prompt)
    click(browser, "#picture-send")


def colour_of(browser: Chromium, place: int) -> Any:
    """The colour of a picture of the gallery, the newest is 0."""
    url = browser.evaluate(f"document.querySelectorAll('#gallery img')[{place}].src")
    return browser.evaluate(f"({READ})({url!r})")


def is_near(colour: Any, *expected: int) -> bool:
    return all(abs(one - other) < 12 for one, other in zip(colour, expected, strict=True))


def test_pictures_are_made_kept_changed_and_saved(
    processes: Processes,
    browser: Chromium,
    axe: str,
    artefacts: Path,
    horde: tuple[ScriptedImages, str],
    tmp_path: Path,
) -> None:
    scripted, horde_url = horde
    scripted.polls = 4
    url = serve(processes, horde_url)
    browser.size(1280)
    browser.open(url)
    until_ready(browser)
    check_progress(browser)
    check_facts(browser)
    browser.open(url)
    browser.until(f"{SHOWN} === 1")
    assert is_near(colour_of(browser, 0), 200, 80, 20)
    check_edit(browser, scripted)
    check_mask(browser, scripted)
    click(browser, "#picture-form summary")
    assert looked_at(browser, axe, artefacts, "pictures") == []
    check_download(browser, tmp_path)
    check_full_size(browser)
    check_removal(browser, url)
    assert browser.console == []
    assert is_from(browser, url)


def check_progress(browser: Chromium) -> None:
    make(browser, PROMPT)
    browser.until("!document.getElementById('picture-stop').disabled")
    browser.until("document.getElementById('picture-progress').value > 0")
    browser.until(
        "/^(queued|generating)/.test(document.getElementById('picture-status').textContent)"
    )
    browser.until(f"{SHOWN} === 1", 60)
    browser.until(
        "document.getElementById('picture-status').textContent === 'The picture is ready.'"
    )
    assert browser.evaluate("document.getElementById('picture-progress').hidden") is True


def check_facts(browser: Chromium) -> None:
    facts = f"{MODEL} · 512×512 · made by painter · seed 42"
    assert text_of(browser, "#gallery .quiet") == facts
    assert browser.evaluate("document.querySelector('#gallery img').alt") == PROMPT
    click(browser, "#gallery [aria-label^='Copy seed']")
    browser.until("document.getElementById('picture-status').textContent.endsWith(': 42')")


def check_edit(browser: Chromium, horde: ScriptedImages) -> None:
    """A picture of the gallery is the source of an edit."""
    paint(horde, 20, 80, 200)
    click(browser, "#gallery [aria-label^='Change']")
    browser.until("document.getElementById('source-image').naturalWidth === 512")
    assert text_of(browser, "#picture-send") == "Change the picture"
    make(browser, "the same fox at night")
    browser.until(f"{SHOWN} === 2", 60)
    assert is_near(colour_of(browser, 0), 20, 80, 200)
    submit = horde.submits[-1]
    assert submit["source_processing"] == "img2img"
    assert submit["params"]["denoising_strength"] == 0.6


def check_mask(browser: Chromium, horde: ScriptedImages) -> None:
    """What is painted with the mouse is the part that the horde makes anew."""
    click(browser, "#source-paint")
    browser.until("document.getElementById('source-mask').width === 512")
    # Smooth scrolling would move the picture under the mouse.
    canvas = "document.getElementById('source-mask')"
    browser.evaluate(f"{canvas}.scrollIntoView({{ block: 'center', behavior: 'instant' }})")
    box = browser.evaluate(
        f"(({{ x, y, width }}) => ({{ x, y, width }}))({canvas}.getBoundingClientRect())"
    )
    middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["width"] / 2}
    for kind in ("mousePressed", "mouseReleased"):
        mouse = {"type": kind, "button": "left", "buttons": 1, "clickCount": 1, **middle}
        browser.call("Input.dispatchMouseEvent", **mouse)
    make(browser, "a red hat")
    browser.until(f"{SHOWN} === 3", 60)
    assert horde.submits[-1]["source_processing"] == "inpainting"
    mask = Image.open(io.BytesIO(base64.b64decode(horde.submits[-1]["source_mask"]))).convert("L")
    width, height = mask.size
    # The horde paints anew what is white.
    points = [(width // 2, height // 2), (width // 8, height // 2)]
    assert [mask.getpixel(point) for point in points] == [255, 0]


def check_download(browser: Chromium, folder: Path) -> None:
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    click(browser, "#gallery li:last-child a")
    file = folder / "a-fox-in-snow-42.png"
    for _ in range(200):
        if file.is_file():
            break
        browser.until("new Promise((resolve) => setTimeout(() => resolve(true), 50))")
    assert Raster.read(file.read_bytes()).kind == "png"


def check_full_size(browser: Chromium) -> None:
    click(browser, "#gallery .thumbnail")
    browser.until("document.getElementById('picture-large').open")
    click(browser, "#large-close")
    browser.until("!document.getElementById('picture-large').open")


def check_removal(browser: Chromium, url: str) -> None:
    click(browser, "#gallery [aria-label^='Remove']")
    browser.until(f"{COUNT} === 2")
    label = browser.evaluate("document.activeElement.ariaLabel")
    assert label == "Remove: the same fox at night"
    browser.open(url)
    browser.until(f"{SHOWN} === 2")


def test_several_pictures_come_at_once_and_the_last_24_are_kept(
    processes: Processes, browser: Chromium, horde: tuple[ScriptedImages, str]
) -> None:
    scripted, horde_url = horde
    scripted.polls = 1
    assert scripted.images
    scripted.images *= 9
    url = serve(processes, horde_url)
    browser.open(url)
    until_ready(browser)
    for count in (9, 18, 24):
        browser.evaluate("document.getElementById('picture-n').value = 9")
        make(browser, f"a fox after {count}")
        status = "document.getElementById('picture-status').textContent"
        browser.until(f"{status} === '9 pictures are ready.'", 60)
        assert browser.evaluate(COUNT) == count
        browser.evaluate("document.getElementById('picture-status').textContent = ''")
    assert scripted.submits[-1]["params"]["n"] == 9
    seeds = text_of(browser, "#gallery")
    assert seeds.count("seed 42") == 2, "the three oldest are gone"
    browser.open(url)
    browser.until(f"{COUNT} === 24")


def test_a_stop_cancels_and_an_error_is_shown(
    processes: Processes, browser: Chromium, horde: tuple[ScriptedImages, str]
) -> None:
    scripted, horde_url = horde
    scripted.polls = 1_000_000
    browser.open(serve(processes, horde_url))
    until_ready(browser)
    make(browser, PROMPT)
    browser.until("!document.getElementById('picture-stop').disabled")
    click(browser, "#picture-stop")
    browser.until("document.getElementById('picture-status').textContent === 'Stopped.'")
    scripted.polls, scripted.censored = 1, True
    make(browser, PROMPT)
    browser.until("document.getElementById('picture-status').textContent === 'It failed.'", 60)
    assert "censored" in text_of(browser, "#picture-problem").lower()
    assert browser.evaluate(COUNT) == 0
    assert browser.evaluate("document.getElementById('picture-send').disabled") is False
    assert scripted.deleted


def test_one_who_logs_in_with_another_key_does_not_see_the_pictures(
    processes: Processes, browser: Chromium, horde: tuple[ScriptedImages, str], tmp_path: Path
) -> None:
    scripted, horde_url = horde
    scripted.polls = 1
    other = "other-key-0123456789"
    url = serve(
        processes,
        horde_url,
        access__mode="keys",
        access__keys=json.dumps({"guest": {"key": GUEST}, "other": {"key": other}}),
        access__database=f"sqlite:///{tmp_path}/ledger.db",
    )
    browser.open(url)
    log_in(browser, GUEST)
    until_ready(browser)
    make(browser, PROMPT)
    browser.until(f"{SHOWN} === 1", 60)
    click(browser, ".who button")
    browser.until("document.getElementById('key') !== null")
    log_in(browser, other)
    until_ready(browser)
    assert browser.evaluate(COUNT) == 0
    click(browser, ".who button")
    browser.until("document.getElementById('key') !== null")
    log_in(browser, GUEST)
    browser.until(f"{SHOWN} === 1")
    assert browser.console == []


def test_each_brings_a_horde_key_and_a_picture_of_ones_own(
    processes: Processes, browser: Chromium, horde: tuple[ScriptedImages, str], tmp_path: Path
) -> None:
    scripted, horde_url = horde
    model = "Flux.1-Schnell fp8 (Compact)"
    scripted.polls, scripted.workers = 1, [{**WORKER, "models": [model]}]
    browser.open(serve(processes, horde_url, access__mode="passthrough"))
    browser.until("document.documentElement.classList.contains('js')")
    browser.until("document.querySelector('#picture-model option') !== null")
    write(browser, "picture-key", "key-of-a-member")
    assert browser.evaluate("document.getElementById('chat-key').value") == "key-of-a-member"
    choose_file(browser, tmp_path / "text.png", b"no picture")
    status = "document.getElementById('picture-status').textContent"
    browser.until(f"{status}.startsWith('This file is not a picture')")
    choose_file(browser, tmp_path / "own.png", base64.b64decode(PNG))
    browser.until("document.getElementById('source-image').naturalWidth === 64")
    click(browser, "#picture-form summary")
    write(browser, "picture-negative", "snow")
    write(browser, "picture-prompt", "a hat")
    browser.evaluate("document.getElementById('picture-prompt').focus()")
    browser.press("Enter", "\r", modifiers=CONTROL)
    browser.until(f"{SHOWN} === 1", 60)
    told = browser.until("document.getElementById('picture-problem').textContent")
    assert told == "negative_prompt: has no effect on this model"
    assert scripted.submits[0]["source_processing"] == "img2img"
    assert scripted.keys == ["key-of-a-member"]


def choose_file(browser: Chromium, path: Path, data: bytes) -> None:
    path.write_bytes(data)
    field = browser.call("Runtime.evaluate", expression="document.getElementById('picture-file')")
    browser.call("DOM.setFileInputFiles", files=[str(path)], objectId=field["result"]["objectId"])


def test_the_command_that_the_page_names_brings_pictures(
    processes: Processes, browser: Chromium, axe: str, artefacts: Path
) -> None:
    """A private horde without workers, then with the painter."""
    url = processes.serve_horde(server__keepalive_interval="1")
    browser.size(1280)
    browser.open(url)
    command = browser.until("document.querySelector('#pictures-missing code')?.textContent")
    assert command == f"horde-proxy worker --horde {url} --api-key KEY --backend painter"
    arguments = command.replace("KEY", KEY).split()[1:]
    processes.start(*arguments, "--idle", "0.05")
    until(lambda: "painter" in requests.get(f"{url}/v1/models", timeout=60).text)
    browser.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    until_ready(browser)
    assert browser.evaluate("document.getElementById('pictures-missing').hidden") is True
    assert browser.evaluate("document.getElementById('picture-model').value") == "auto"
    for count, prompt in enumerate((PROMPT, "a lighthouse in a storm"), 1):
        make(browser, prompt)
        browser.until(f"{SHOWN} === {count}", 60)
    assert text_of(browser, "#gallery .quiet").startswith("horde-proxy/painter · ")
    assert looked_at(browser, axe, artefacts, "painter") == []
    assert browser.console == []


def test_without_image_models_the_page_says_what_is_missing(
    processes: Processes,
    browser: Chromium,
    axe: str,
    artefacts: Path,
    horde: tuple[ScriptedImages, str],
) -> None:
    scripted, horde_url = horde
    scripted.workers = []
    browser.open(serve(processes, horde_url))
    browser.until("document.getElementById('live')?.textContent === 'live'")
    missing = "document.getElementById('pictures-missing')"
    assert "no image worker is online" in browser.evaluate(f"{missing}.innerText")
    form = "getComputedStyle(document.getElementById('picture-form')).display"
    assert browser.evaluate(form) == "none"
    assert looked_at(browser, axe, artefacts, "no-pictures") == []


def test_an_answer_shows_pictures_of_this_proxy_and_no_others(
    browser: Chromium, artefacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile answer cannot make the browser call another server."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    server, answer = Flask("server"), {"text": ""}
    drawn: list[Any] = []
    pictures = [{"b64_json": PNG}, {"url": "http://127.0.0.1:9/x.png"}, {"b64_json": PNG}]

    @server.get("/v1/models")
    def models() -> Any:
        return jsonify(data=[{"id": "m", "object": "model"}, {"id": "dall-e-3"}])

    @server.post("/v1/images/generations")
    def generations() -> Any:
        drawn.append(request.get_json())
        return jsonify(data=[pictures.pop(0)])

    @server.post("/v1/chat/completions")
    def chat() -> Any:
        chunk = {"choices": [{"index": 0, "delta": {"content": answer["text"]}}]}
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        lines = [f"data: {json.dumps(data)}\n\n" for data in (chunk, end)]
        return "".join([*lines, "data: [DONE]\n\n"]), {"Content-Type": "text/event-stream"}

    with serving(server) as upstream:
        app = create_app(load(environ={}, flags={"endpoints": [{"url": upstream, "name": "s"}]}))
        name = app.extensions["horde_proxy"].pictures.add(
            Raster.plain(96, 64, (200, 80, 20)).encoded("png"), "png"
        )
        foreign = f"http://127.0.0.1:{free_port()}"
        with serving(app) as url:
            hostile = [
                f"![a]({foreign}/v1/files/images/{name})",
                f"![b]({foreign}/x.png)",
                f"![c](//{foreign[7:]}/x.png)",
                "![d](data:image/svg+xml,<svg onload='hacked=1'/>)",
                "![e](/page/logout)",
                f"![f](/v1/files/images/{name}?x=1/../../../../page/logout)",
                f"<img src='{foreign}/y.png' onerror='hacked=1'>",
                f"[g]({foreign})",
            ]
            answer["text"] = "\n".join([f"Here: ![a fox]({url}/v1/files/images/{name})", *hostile])
            browser.open(url)
            browser.until("document.getElementById('chats-note').textContent !== ''")
            write(browser, "chat-text", "Draw a fox")
            click(browser, "#chat-send")
            browser.until("document.getElementById('chat-status').textContent === 'Done.'")
            browser.until("document.querySelector('.turn.assistant img')?.naturalWidth === 96")
            sources = browser.evaluate(
                "[...document.querySelectorAll('.turn img')].map((image) => image.src)"
            )
            assert set(sources) == {f"{url}/v1/files/images/{name}"}
            shown = text_of(browser, ".turn.assistant .text")
            host = foreign.removeprefix("http://")
            assert f"a (a picture at {host})" in shown
            assert all(line in shown for line in hostile[3:5])
            assert f"<img src='{foreign}/y.png' onerror='hacked=1'>" in shown
            browser.look(1280, "light", artefacts / "chat-picture.png")
            assert is_from(browser, url)
            assert browser.evaluate("typeof hacked") == "undefined"
            make(browser, PROMPT)
            browser.until(f"{SHOWN} === 1")
            assert drawn == [{"prompt": PROMPT, "model": "dall-e-3", "response_format": "b64_json"}]
            assert text_of(browser, "#gallery .quiet") == "dall-e-3 · made by s"
            make(browser, PROMPT)
            browser.until("!document.getElementById('picture-problem').hidden")
            assert "a link to another server" in text_of(browser, "#picture-problem")
            browser.evaluate("document.getElementById('picture-n').value = 2")
            make(browser, PROMPT)
            browser.until(f"{SHOWN} === 2")
            problem = "document.getElementById('picture-problem').textContent"
            browser.until(f"{problem} === 'Only 1 of 2 pictures came. '")
            assert is_from(browser, url)
            # The policy holds as well where a script of the page would be tricked.
            browser.evaluate(f"new Image().src = '{foreign}/z.png'")
            browser.until("true")
            assert any("Content Security Policy" in line for line in browser.console)
