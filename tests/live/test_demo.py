"""The demo as a user runs it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from horde_proxy.commands import demo
from tests.live.processes import answers, free_port, until


def children(pid: int) -> set[int]:
    """The process ids of all descendants."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    parents = {int(line.split()[0]): int(line.split()[1]) for line in listed.stdout.splitlines()}
    found, frontier = set[int](), {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found |= frontier
    return found


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not shutil.which("ps"), reason="needs ps")
@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_printed_curl_line_answers_and_a_signal_ends_everything(
    tmp_path: Path, number: signal.Signals
) -> None:
    bind, said = f"127.0.0.1:{free_port()}", tmp_path / "said"
    with said.open("w") as output:
        demo = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "horde_proxy",
                "demo",
                "--bind",
                bind,
                "--model",
                "ngram",
                "--echo",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(lambda: "Ctrl-C" in said.read_text())
        text = said.read_text()
        assert f"OpenAI base URL:  http://{bind}/v1" in text
        assert "horde-proxy/ngram-demo" in text
        assert "horde-proxy/echo" in text
        line = next(line.strip() for line in text.splitlines() if line.strip().startswith("curl"))
        pasted = subprocess.run(
            ["sh", "-c", f"{line} -s"], capture_output=True, text=True, timeout=60, check=True
        )
        answer = json.loads(pasted.stdout)
        assert answer["model"] == "horde-proxy/ngram-demo"
        assert re.search(r"\w+", answer["choices"][0]["message"]["content"])
        body = {"prompt": "a fox in snow", "size": "512x512"}
        made = requests.post(f"http://{bind}/v1/images/generations", json=body, timeout=60).json()
        image = base64.b64decode(made["data"][0]["b64_json"])
        assert image.startswith(b"\x89PNG")
        started = children(demo.pid)
        assert len(started) >= 4
    finally:
        demo.send_signal(number)
        assert demo.wait(120) == 0
    until(lambda: not any(is_running(pid) for pid in started))
    assert not answers(f"http://{bind}/health/live")


def test_the_demo_says_where_it_cannot_listen() -> None:
    with pytest.raises(demo.DemoError, match="listen"):
        demo._check_bind("203.0.113.1:1")


@pytest.mark.skipif(not shutil.which("ps"), reason="needs ps")
def test_a_demo_whose_output_is_read_no_more_leaves_nothing_behind() -> None:
    bind = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "horde_proxy", "demo", "--bind", bind, "--model", "ngram"]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert demo.stdout is not None
    started: set[int] = set()
    try:
        until(lambda: b"Ctrl-C" in demo.stdout.readline())  # type: ignore[union-attr]
        started = children(demo.pid)
        demo.stdout.close()
    finally:
        demo.send_signal(signal.SIGTERM)
        demo.wait(60)
    assert len(started) >= 2
    until(lambda: not any(map(is_running, started)))


@pytest.mark.skipif(not shutil.which("ps"), reason="needs ps")
def test_a_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    said = tmp_path / "said"
    bind = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "horde_proxy", "demo", "--bind", bind, "--model", "ngram"]
    with said.open("w") as output:
        demo = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        until(lambda: "Ctrl-C" in said.read_text())
        started = children(demo.pid)
        assert len(started) >= 4
    finally:
        demo.kill()
        demo.wait()
    until(lambda: not any(map(is_running, started)), 30)


def test_a_demo_streams_its_text_while_the_model_writes(tmp_path: Path) -> None:
    bind, said = f"127.0.0.1:{free_port()}", tmp_path / "said"
    command = [sys.executable, "-m", "horde_proxy", "demo", "--bind", bind, "--model", "ngram"]
    with said.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        until(lambda: "Ctrl-C" in said.read_text(), 60)
        body = {
            "model": "horde-proxy/ngram-demo",
            "messages": [{"role": "user", "content": "Tell me of the sun."}],
            "stream": True,
        }

        def seconds() -> float:
            """From the first words of an answer to the last ones."""
            url = f"http://{bind}/v1/chat/completions"
            with requests.post(url, json=body, stream=True, timeout=60) as response:
                times = [
                    time.monotonic()
                    for line in response.iter_lines(chunk_size=1)
                    if b'"content":"' in line.replace(b" ", b"")
                ]
            return times[-1] - times[0]

        # The toy takes 20 ms for each word. A polled text would come all at once, every time; on a
        # busy machine, one that grows may do so once.
        until(lambda: seconds() > 0.1)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)
