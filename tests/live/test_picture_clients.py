"""Real clients of OpenAI's images API against the proxy, in front of a scripted horde."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from PIL import Image

from horde_proxy.pictures import Raster
from tests.live.client_programs import SCRIPTS, run
from tests.live.processes import Processes
from tests.live.test_page import serving
from tests.scripted_images import MODEL, ScriptedImages, as_raster

PNG = Raster.plain(512, 512, (9, 9, 9)).encoded("png")
WEBP = base64.b64encode(Raster.plain(512, 512, (200, 80, 20)).encoded("webp")).decode()

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def horde() -> Iterator[tuple[ScriptedImages, str]]:
    """A scripted horde, and the URL of a proxy in front of it."""
    scripted, processes = ScriptedImages(), Processes()
    scripted.images = [WEBP] * 4
    with serving(scripted.app) as url:
        try:
            yield scripted, processes.serve(horde__url=f"{url}/api")[0]
        finally:
            processes.end()


@pytest.fixture
def client(horde: tuple[ScriptedImages, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{horde[1]}/v1", api_key="none", max_retries=0) as client:
        yield client


def hole() -> bytes:
    """A mask whose upper half is transparent."""
    image = Image.new("RGBA", (512, 512), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 512, 256))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def kind(data: str | None) -> str:
    return Raster.read(base64.b64decode(data or "")).kind


def test_openai_generates_and_streams(client: openai.OpenAI) -> None:
    made = client.images.generate(
        prompt="a fox", model="gpt-image-1", n=2, output_format="jpeg", size="1024x1024"
    )
    assert [kind(image.b64_json) for image in made.data or []] == ["jpeg", "jpeg"]
    assert made.usage and made.usage.output_tokens == 0
    stream = client.images.generate(prompt="a fox", model=MODEL, stream=True, partial_images=2)
    names = [event.type for event in stream]
    assert names == ["image_generation.completed"]


def test_openai_gets_links_that_browsers_open(client: openai.OpenAI) -> None:
    [image] = client.images.generate(prompt="a fox", model="dall-e-3").data or []
    answer = requests.get(image.url or "", headers={"Origin": "https://a.example"}, timeout=60)
    assert (answer.headers["Content-Type"], answer.headers["Access-Control-Allow-Origin"]) == (
        "image/png",
        "*",
    )
    assert Raster.read(answer.content).size == (512, 512)


def test_openai_edits_with_and_without_a_mask(
    client: openai.OpenAI, horde: tuple[ScriptedImages, str]
) -> None:
    client.images.edit(image=io.BytesIO(PNG), prompt="a hat", model=MODEL)
    client.images.edit(
        image=("a.png", PNG),
        mask=("mask.png", hole()),
        prompt="a hat",
        extra_body={
            "negative_prompt": "hair",
            "loras": [{"name": "12"}],
            "horde": {"max_kudos": 99},
        },
    )
    plain, masked = horde[0].submits
    assert (plain["source_processing"], "source_mask" in plain) == ("img2img", False)
    assert masked["source_processing"] == "inpainting"
    assert masked["prompt"] == "a hat ### hair"
    assert masked["params"]["loras"] == [{"name": "12"}]
    pixels = as_raster(masked["source_mask"]).pixels()
    assert (pixels[0], pixels[-1]) == (255, 0)


def test_openai_is_told_that_one_image_is_changed_at_a_time(client: openai.OpenAI) -> None:
    files: Any = [("a.png", PNG), ("b.png", PNG)]
    with pytest.raises(openai.BadRequestError, match="one image at a time") as caught:
        client.images.edit(image=files, prompt="both", model=MODEL)
    assert caught.value.param == "image"


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_openai_makes_variations(client: openai.OpenAI, horde: tuple[ScriptedImages, str]) -> None:
    made = client.images.create_variation(
        image=("a.png", PNG), n=2, size="512x512", response_format="b64_json"
    )
    assert [kind(image.b64_json) for image in made.data or []] == ["png", "png"]
    assert horde[0].submits[0]["source_processing"] == "img2img"


def test_the_ai_sdk_generates(horde: tuple[ScriptedImages, str], chat_scripts: Path) -> None:
    answer = run(["node", "ai_sdk_images.mjs", f"{horde[1]}/v1", MODEL], chat_scripts)
    assert json.loads(answer) == ["image/png", "image/png"]


def test_the_ai_sdk_with_openais_provider_generates_and_edits(
    horde: tuple[ScriptedImages, str], answer_scripts: Path
) -> None:
    answer = run(["node", "ai_sdk_7_images.mjs", f"{horde[1]}/v1"], answer_scripts)
    assert json.loads(answer) == ["image/png"] * 3
    made, changed = horde[0].submits
    assert (made["params"]["n"], changed["source_processing"]) == (2, "img2img")


def test_langchain_gets_links(horde: tuple[ScriptedImages, str], image_python: Path) -> None:
    script = SCRIPTS / "langchain_images.py"
    links = json.loads(run([image_python / "python", script, f"{horde[1]}/v1"], SCRIPTS))
    assert len(set(links)) == 3
    for link in links:
        answer = requests.get(link, timeout=60)
        assert Raster.read(answer.content).kind == "png"
    first, second = horde[0].submits
    assert (first["params"]["n"], second["params"]["width"]) == (2, 1792)
