"""`horde-proxy image`: pictures into files."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import responses
from click.testing import CliRunner, Result

from horde_proxy.commands.cli import main
from horde_proxy.pictures import Raster

BASE = "http://proxy.test/v1"
PNG = Raster.plain(64, 64, (1, 2, 3)).encoded("png")
EVENT = {"type": "image_generation.completed", "b64_json": base64.b64encode(PNG).decode()}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["image", *arguments, "--url", BASE])


def stream(*events: Any) -> str:
    return "".join(f": queued\n\nevent: x\ndata: {json.dumps(event)}\n\n" for event in events)


def sent(call: responses.BaseResponse) -> Any:
    return json.loads(call.calls[0].request.body or "")


@responses.activate
def test_a_picture_is_written_to_a_file_named_after_its_prompt() -> None:
    call = responses.post(f"{BASE}/images/generations", body=stream(EVENT))
    result = run("A fox, in snow!")
    assert result.output == "a-fox-in-snow.png\n"
    assert Path("a-fox-in-snow.png").read_bytes() == PNG
    assert sent(call) == {
        "prompt": "A fox, in snow!",
        "n": 1,
        "output_format": "png",
        "response_format": "b64_json",
        "stream": True,
    }


@responses.activate
def test_all_options_reach_the_proxy_and_several_files_are_numbered() -> None:
    call = responses.post(f"{BASE}/images/generations", body=stream(EVENT, EVENT))
    result = run(
        *("a fox", "-o", "pictures/fox.webp", "-n", "2", "--model", "SDXL 1.0"),
        *("--size", "512x512", "--quality", "high", "--seed", "7", "--steps", "12"),
        *("--negative", "blurry", "--transparent"),
    )
    assert result.output == "pictures/fox-1.webp\npictures/fox-2.webp\n"
    assert sent(call) == {
        "prompt": "a fox",
        "model": "SDXL 1.0",
        "n": 2,
        "size": "512x512",
        "quality": "high",
        "seed": "7",
        "steps": 12,
        "negative_prompt": "blurry",
        "background": "transparent",
        "output_format": "webp",
        "response_format": "b64_json",
        "stream": True,
    }


@responses.activate
def test_a_picture_to_change_is_sent_as_a_form() -> None:
    call = responses.post(f"{BASE}/images/edits", body=stream(EVENT))
    Path("fox.png").write_bytes(PNG)
    result = run("a hat", "-o", "hat.png", "--from", "fox.png", "--mask", "fox.png")
    assert result.exit_code == 0, result.output
    body = call.calls[0].request.body
    assert isinstance(body, bytes)
    assert b'name="image"; filename="image"' in body
    assert b'name="mask"; filename="mask"' in body
    assert b'name="stream"\r\n\r\ntrue' in body


@responses.activate
def test_fewer_pictures_than_wanted_are_said() -> None:
    responses.post(f"{BASE}/images/generations", body=stream(EVENT))
    result = run("a fox", "-n", "2")
    assert result.exit_code == 0
    assert result.stderr == "(1 of 2 were made)\n"


@responses.activate
@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (stream({"type": "error", "error": {"message": "Too dear."}}), 200, "Too dear."),
        (json.dumps({"error": {"message": "No such model."}}), 404, "No such model."),
        ("", 200, "the proxy sent no picture"),
        (stream({"b64_json": "!"}), 200, "cannot be read"),
    ],
)
def test_a_failure_is_said_and_leaves_no_file(body: str, status: int, said: str) -> None:
    responses.post(f"{BASE}/images/generations", body=body, status=status)
    result = run("a fox")
    assert result.exit_code == 1
    assert said in result.output
    assert not Path("a-fox.png").exists()


def test_no_file_is_overwritten_unasked() -> None:
    Path("fox.png").write_text("mine")
    result = run("a fox", "-o", "fox.png")
    assert result.exit_code == 1
    assert "fox.png exists: name another file, or use --force" in result.output
    assert Path("fox.png").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a fox", "-o", "fox.gif"], "must end in .png, .jpg or .webp"),
        (["a fox", "--mask", "{png}"], "--mask belongs to a picture"),
        (["a fox", "-n", "11"], "not in the range"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], said: str) -> None:
    Path("mask.png").write_bytes(PNG)
    result = run(*(argument.replace("{png}", "mask.png") for argument in arguments))
    assert result.exit_code == 2
    assert said in result.output
