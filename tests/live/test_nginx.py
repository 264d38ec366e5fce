"""A real nginx before the proxy: with our own server block, and with a stock one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from horde_proxy.commands.check_url import check_url
from tests.live.processes import Processes, answers, free_port, running_requests, until

pytestmark = pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
OURS = Path(__file__).parent.parent.parent / "systemd" / "nginx.conf"
MODEL = "horde-proxy/echo"
USER = "user root;" if os.getuid() == 0 else ""
MAIN = """
{user}
daemon off;
pid {folder}/{port}.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {server}
}}
"""
STOCK = "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{proxy}{slash}; }} }}"


def our_server(port: int, proxy: str) -> str:
    """systemd/nginx.conf as it is, but for the port, the address behind it, and TLS."""
    text = (
        OURS.read_text()
        .replace("127.0.0.1:8080", proxy)
        .replace("443 ssl http2", f"127.0.0.1:{port}")
    )
    return re.sub(r"\n\s+ssl_\w+\s.*;", "", text)


@pytest.fixture
def nginx(tmp_path: Path, processes: Processes) -> Callable[[str, str], str]:
    def start(kind: str, url: str) -> str:
        port, proxy = free_port(), url.removeprefix("http://")
        stock = STOCK.format(port=port, proxy=proxy, slash="/" if kind == "slash" else "")
        server = our_server(port, proxy) if kind == "ours" else stock
        config = tmp_path / f"{kind}.conf"
        config.write_text(MAIN.format(folder=tmp_path, server=server, port=port, user=USER))
        processes.started.append(
            subprocess.Popen(
                ["nginx", "-c", str(config), "-p", str(tmp_path)], stderr=subprocess.DEVNULL
            )
        )
        found = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{found}/health/live"))
        return found

    return start


def body(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "Hello you"}], **fields}


def streamed(url: str) -> tuple[float, float, list[bytes]]:
    """(seconds to the first event, to the last, the events)."""
    begin = time.monotonic()
    response = requests.post(
        f"{url}/v1/chat/completions", json=body(stream=True), stream=True, timeout=60
    )
    lines = response.iter_lines()
    first = [next(lines)]
    seconds = time.monotonic() - begin
    first.extend(line for line in lines if line)
    return seconds, time.monotonic() - begin, first


def completed(url: str) -> str:
    response = requests.post(f"{url}/v1/chat/completions", json=body(), timeout=120)
    return str(response.json()["choices"][0]["message"]["content"])


@pytest.mark.slow
def test_a_wait_of_ninety_seconds_comes_through(processes: Processes, nginx: Any) -> None:
    """Streams through both server blocks and an answer in one piece through ours, at once."""
    proxy = processes.serve_horde(access__mode="open")
    processes.work(proxy, "--delay", "90", "--threads", "3")
    ours, stock = nginx("ours", proxy), nginx("stock", proxy)
    with ThreadPoolExecutor() as pool:
        streams = [pool.submit(streamed, url) for url in (ours, stock)]
        whole = pool.submit(completed, ours)
        for stream in streams:
            first, last, lines = stream.result()
            assert first < 60
            assert last > 89
            assert b'"role":"assistant"' in lines[0]
            assert b'"finish_reason":"stop"' in lines[-2]
            assert lines[-1] == b"data: [DONE]"
        assert whole.result() == "Hello you"


@pytest.mark.parametrize("kind", ["ours", "stock", "slash"])
def test_nginx_does_not_open_a_proxy_without_an_access_mode(
    processes: Processes, nginx: Any, kind: str
) -> None:
    response = requests.get(f"{nginx(kind, processes.serve_horde())}/v1/models", timeout=60)
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "access_mode_required"


def test_a_body_of_twenty_megabytes_comes_through(processes: Processes, nginx: Any) -> None:
    proxy = processes.serve_horde(access__mode="open")
    processes.work(proxy)
    url = nginx("ours", proxy)
    text = "word " * (4 * 1024 * 1024)
    response = requests.post(
        f"{url}/v1/chat/completions",
        json=body(messages=[{"role": "user", "content": text}]),
        timeout=60,
    )
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("kind", ["ours", "stock", "slash"])
def test_a_name_with_a_slash_is_found_through_every_proxy_pass(
    processes: Processes, nginx: Any, kind: str
) -> None:
    proxy = processes.serve_horde(access__mode="open")
    processes.work(proxy)
    url = nginx(kind, proxy)
    assert requests.get(f"{url}/v1/models/horde-proxy%2Fecho", timeout=60).json()["id"] == MODEL


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_nginx_is_noticed(
    processes: Processes, nginx: Any, stream: bool
) -> None:
    proxy = processes.serve_horde(access__mode="open")
    processes.work(proxy, "--delay", "300")
    url = nginx("ours", proxy)

    def leave() -> None:
        with pytest.raises(requests.RequestException):
            response = requests.post(
                f"{url}/v1/chat/completions", json=body(stream=stream), timeout=2, stream=True
            )
            list(response.iter_lines())

    thread = threading.Thread(target=leave)
    thread.start()
    until(lambda: running_requests(proxy))
    thread.join()
    until(lambda: not running_requests(proxy))


def test_check_finds_nothing_to_mend_behind_our_server_block(
    processes: Processes, nginx: Any
) -> None:
    proxy = processes.serve_horde(access__mode="open")
    processes.work(proxy)
    findings = list(check_url(nginx("ours", proxy), None, requests.Session(), silence=False))
    assert [finding for finding in findings if not finding.ok] == []
    assert len(findings) == 4


@pytest.mark.slow
def test_check_finds_what_a_stock_server_block_does(processes: Processes, nginx: Any) -> None:
    proxy = processes.serve_horde(access__mode="open")
    processes.work(proxy)
    findings = list(check_url(nginx("stock", proxy), None, requests.Session()))
    assert [finding.what.split(":")[0] for finding in findings if not finding.ok] == [
        "body",
        "time-outs",
    ]


def test_the_probe_is_json_events(processes: Processes) -> None:
    url, _ = processes.serve(access__mode="open")
    text = requests.get(f"{url}/health/probe?seconds=1&interval=0.5", timeout=60).text
    assert [set(json.loads(line[6:])) for line in text.split("\n\n") if line] == [{"seconds"}] * 3
