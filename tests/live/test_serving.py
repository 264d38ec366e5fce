"""The proxy under gunicorn, with a private horde and an echo worker: real sockets, real signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from tests.live.processes import Processes, answers, free_port, running_requests, until

MODEL = "horde-proxy/echo"


def body(text: str = "Hello you", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def post(url: str, **fields: Any) -> requests.Response:
    return requests.post(f"{url}/v1/chat/completions", json=body(**fields), stream=True, timeout=60)


def test_the_openai_package_lists_chats_and_streams(processes: Processes) -> None:
    url = processes.serve_horde()
    processes.work(url)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).id == MODEL
        chat = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello you"}]
        )
        assert chat.choices[0].message.content == "Hello you"
        assert chat.usage is not None
        assert chat.usage.completion_tokens == 2
        chunks = list(
            client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "Hello you"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == "Hello you"
        assert chunks[-1].usage is not None
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(
                model="nope", messages=[{"role": "user", "content": "Hi"}]
            )


def test_keep_alives_come_between_the_role_and_the_text(processes: Processes) -> None:
    url = processes.serve_horde(server__keepalive_interval="1")
    processes.work(url, "--delay", "3.5")
    lines = [line for line in post(url, stream=True).iter_lines() if line.startswith(b"data: ")]
    assert lines.pop() == b"data: [DONE]"
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines]
    assert deltas[0]["role"] == "assistant"
    first_text = deltas.index({"content": "Hello"})
    assert deltas[1:first_text].count({}) >= 2


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_is_noticed(processes: Processes, stream: bool) -> None:
    url = processes.serve_horde()
    processes.work(url, "--delay", "300")
    curl = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import requests; requests.post('{url}/v1/chat/completions', "
            f"json={body(stream=stream)!r}, timeout=60)",
        ]
    )
    until(lambda: running_requests(url))
    time.sleep(0.5)
    curl.kill()
    curl.wait()
    until(lambda: not running_requests(url))


def test_fifty_chats_at_once_end_while_other_routes_answer(processes: Processes) -> None:
    url = processes.serve_horde()
    processes.work(url, "--delay", "10", "--threads", "50")
    found: dict[int, str] = {}

    def chat(number: int) -> None:
        response = post(url, text=f"number {number}", stream=number % 2 == 0)
        found[number] = response.text

    threads = [threading.Thread(target=chat, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    waiting = []
    while any(thread.is_alive() for thread in threads):
        for path in ("/health/live", "/v1/models"):
            assert requests.get(url + path, timeout=60).ok
            waiting.append(sum(thread.is_alive() for thread in threads))
        time.sleep(0.1)
    assert max(waiting) == 50
    for number, text in found.items():
        assert '"finish_reason":"stop"' in text
        assert str(number) in text
        assert text.endswith("data: [DONE]\n\n") == (number % 2 == 0)
    assert len(found) == 50


def test_a_body_that_is_too_large_is_an_envelope_over_a_real_socket(processes: Processes) -> None:
    url, _ = processes.serve(horde__url="http://127.0.0.1:9")
    response = requests.post(
        f"{url}/v1/chat/completions", data=b"x" * (33 * 1024 * 1024), timeout=120
    )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/models/{MODEL}",
        "/v1/models/horde-proxy%2Fecho",
        "/models/horde-proxy%2fecho",
    ],
)
def test_a_name_with_a_slash_is_found_in_every_spelling(processes: Processes, path: str) -> None:
    url = processes.serve_horde()
    processes.work(url)
    assert requests.get(url + path, timeout=60).json()["id"] == MODEL


def test_sigterm_cancels_what_waits_and_ends_its_stream(processes: Processes) -> None:
    horde = processes.serve_horde()
    processes.work(horde, "--delay", "300")
    url, proxy = processes.serve(
        horde__url=horde, horde__validated_backends="false", server__grace="1"
    )
    until(lambda: answers(f"{url}/health/ready"))
    lines: list[bytes] = []

    def read() -> None:
        lines.extend(line for line in post(url, stream=True).iter_lines() if line)

    thread = threading.Thread(target=read)
    thread.start()
    until(lambda: running_requests(horde))
    time.sleep(0.5)
    proxy.send_signal(signal.SIGTERM)
    thread.join(120)
    assert json.loads(lines[-2][6:])["error"]["code"] == "shutting_down"
    assert lines[-1] == b"data: [DONE]"
    until(lambda: not running_requests(horde))
    assert proxy.wait(120) == 0


def test_sigterm_lets_a_chat_end_within_the_grace_time(processes: Processes) -> None:
    horde = processes.serve_horde()
    processes.work(horde, "--delay", "2")
    url, proxy = processes.serve(
        horde__url=horde, horde__validated_backends="false", server__grace="60"
    )
    until(lambda: answers(f"{url}/health/ready"))
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(post(url).text))
    thread.start()
    until(lambda: running_requests(horde))
    proxy.send_signal(signal.SIGTERM)
    thread.join(120)
    assert json.loads(found[0])["choices"][0]["message"]["content"] == "Hello you"
    assert proxy.wait(120) == 0


def test_plain_gunicorn_serves_the_wsgi_module(processes: Processes) -> None:
    bind = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--bind", bind, "--threads", "4", "wsgi:app"],
        cwd=Path(__file__).parent.parent.parent,
    )
    processes.started.append(process)
    until(lambda: answers(f"http://{bind}/health/live"))


def test_a_demo_on_a_used_port_ends_with_an_error(processes: Processes) -> None:
    url, _ = processes.serve()
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "horde_proxy",
            "demo",
            "--model",
            "ngram",
            "--bind",
            url.removeprefix("http://"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "cannot listen on" in ended.stderr
