"""The service under signals: settings reloaded, workers killed, sockets handed over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.live.processes import KEY, Processes, answers, free_port, running_requests, until

MODEL = "horde-proxy/echo"
LAPTOP = "laptop-key-0123456789"


def body(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "Hello you"}], **fields}


def chats(url: str, count: int) -> tuple[list[threading.Thread], list[str]]:
    """Chats that are running, half of them streaming, and where their answers go."""
    found: list[str] = []

    def chat(stream: bool) -> None:
        try:
            response = requests.post(
                f"{url}/v1/chat/completions", json=body(stream=stream), timeout=60, stream=True
            )
            found.append(b"".join(response.iter_content()).decode())
        except requests.RequestException as exc:
            found.append(type(exc).__name__)

    threads = [threading.Thread(target=chat, args=(i % 2 == 0,)) for i in range(count)]
    for thread in threads:
        thread.start()
    return threads, found


def horde_and_proxy(processes: Processes, delay: str, **settings: str) -> Any:
    horde = processes.serve_horde()
    processes.work(horde, "--delay", delay, "--threads", "50")
    url, proxy = processes.serve(horde__url=horde, horde__validated_backends="false", **settings)
    until(lambda: answers(f"{url}/health/ready"))
    return horde, url, proxy


def worker_of(pid: int) -> int:
    """The process id of a master's only worker."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_sighup_brings_new_settings_and_drops_no_chat(processes: Processes, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("")
    horde, url, proxy = horde_and_proxy(processes, "3", config=str(file))
    worker = worker_of(proxy.pid)
    threads, found = chats(url, 50)
    until(lambda: len(running_requests(horde)) == 50)
    file.write_text(f'[access]\nmode = "keys"\n[access.keys]\nlaptop = "{LAPTOP}"\n')
    proxy.send_signal(signal.SIGHUP)
    until(lambda: requests.get(f"{url}/v1/models", timeout=60).status_code == 401)
    headers = {"Authorization": f"Bearer {LAPTOP}"}
    assert requests.get(f"{url}/v1/models", headers=headers, timeout=60).ok
    for thread in threads:
        thread.join(30)
    assert len(found) == 50
    assert all('"finish_reason":"stop"' in text for text in found)
    assert worker_of(proxy.pid) == worker


def test_sighup_with_a_wrong_setting_keeps_the_old_ones(
    processes: Processes, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("")
    url, proxy = processes.serve(config=str(file), horde__url="http://127.0.0.1:9")
    file.write_text("[server]\nplaces = 'many'\n")
    proxy.send_signal(signal.SIGHUP)
    proxy.send_signal(signal.SIGHUP)
    until(lambda: answers(f"{url}/health/live"))
    assert proxy.poll() is None


def test_sigterm_with_fifty_chats_ends_each_and_cancels_all(processes: Processes) -> None:
    horde, url, proxy = horde_and_proxy(processes, "30", server__grace="1")
    threads, found = chats(url, 50)
    until(lambda: len(running_requests(horde)) == 50)
    proxy.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(20)
    assert len(found) == 50
    assert all("shutting_down" in text for text in found)
    assert sum(text.endswith("data: [DONE]\n\n") for text in found) == 25
    until(lambda: not running_requests(horde))
    assert proxy.wait(15) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_quick_stop_cancels_at_once(processes: Processes, number: signal.Signals) -> None:
    horde, url, proxy = horde_and_proxy(processes, "30")
    threads, _found = chats(url, 4)
    until(lambda: len(running_requests(horde)) == 4)
    proxy.send_signal(number)
    assert proxy.wait(120) == 0
    until(lambda: not running_requests(horde))
    for thread in threads:
        thread.join(120)


def test_a_killed_worker_ends_its_chats_and_its_successor_serves(processes: Processes) -> None:
    horde, url, proxy = horde_and_proxy(processes, "3")
    threads, found = chats(url, 50)
    until(lambda: len(running_requests(horde)) == 50)
    os.kill(worker_of(proxy.pid), signal.SIGKILL)
    for thread in threads:
        thread.join(120)
    assert len(found) == 50
    until(lambda: answers(f"{url}/health/ready"))
    answer = requests.post(f"{url}/v1/chat/completions", json=body(), timeout=60).json()
    assert answer["choices"][0]["message"]["content"] == "Hello you"


@pytest.mark.skipif(
    not shutil.which("systemd-socket-activate"), reason="systemd-socket-activate is not installed"
)
def test_a_socket_of_systemds_is_taken_over(processes: Processes) -> None:
    bind = f"127.0.0.1:{free_port()}"
    names = {"AI_HORDE_API_KEY": KEY, "PATH": os.environ["PATH"]}
    setenv = [part for name, value in names.items() for part in ("-E", f"{name}={value}")]
    processes.started.append(
        subprocess.Popen(
            [
                "systemd-socket-activate",
                "-l",
                bind,
                *setenv,
                sys.executable,
                "-m",
                "horde_proxy",
                "serve",
                "--bind",
                "127.0.0.1:1",
            ],
            stderr=subprocess.DEVNULL,
        )
    )
    until(lambda: answers(f"http://{bind}/health/live"))


def test_serving_others_without_keys_is_refused_with_the_setting_that_opens_it() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "horde_proxy", "serve", "--bind", "0.0.0.0:8080"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "set access.mode to 'keys'" in ended.stderr


def test_a_request_is_one_line_of_json_on_stderr(tmp_path: Path, processes: Processes) -> None:
    bind, said = f"127.0.0.1:{free_port()}", tmp_path / "said"
    with said.open("w") as stderr:
        processes.started.append(
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "horde_proxy",
                    "serve",
                    "--bind",
                    bind,
                    "--log-format",
                    "json",
                ],
                env={**os.environ, "HORDE_PROXY_HORDE__URL": "http://127.0.0.1:9"},
                stderr=stderr,
            )
        )
        until(lambda: answers(f"http://{bind}/health/live"))
        requests.get(f"http://{bind}/v1/nope", timeout=60)
    lines = until(lambda: [line for line in said.read_text().splitlines() if "nope" in line])
    assert json.loads(lines[0])["status"] == 404


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_the_units_are_in_order() -> None:
    folder = Path(__file__).parent.parent.parent / "systemd"
    kinds = (".service", ".socket", ".timer")
    units = [str(path) for path in folder.iterdir() if path.suffix in kinds]
    ended = subprocess.run(
        ["systemd-analyze", "verify", *units],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
