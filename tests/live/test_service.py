"""The service under signals: settings reloaded, workers killed, sockets handed over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import pytest
import requests

from horde_proxy.commands.unit_files import ServiceFiles, hidden_path
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
    horde, url, proxy = horde_and_proxy(processes, "12", config=str(file))
    worker = worker_of(proxy.pid)
    threads, found = chats(url, 50)
    until(lambda: len(running_requests(horde)) == 50)
    file.write_text(f'[access]\nmode = "keys"\n[access.keys]\nlaptop = "{LAPTOP}"\n')
    proxy.send_signal(signal.SIGHUP)
    until(lambda: requests.get(f"{url}/v1/models", timeout=60).status_code == 401)
    headers = {"Authorization": f"Bearer {LAPTOP}"}
    assert requests.get(f"{url}/v1/models", headers=headers, timeout=60).ok
    for thread in threads:
        thread.join(120)
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
        thread.join(120)
    assert len(found) == 50
    assert all("shutting_down" in text for text in found)
    assert sum(text.endswith("data: [DONE]\n\n") for text in found) == 25
    until(lambda: not running_requests(horde))
    assert proxy.wait(120) == 0


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
    horde, url, proxy = horde_and_proxy(processes, "12")
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


HAND_OVER = """
import os, sys
# Not inheritable, it would be closed where it has the number 3 already.
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "horde_proxy", "serve"])
"""


def started_with(listener: socket.socket, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """The server with a socket as systemd hands it over: descriptor 3, for its own process id."""
    return subprocess.Popen(
        [sys.executable, "-c", HAND_OVER, str(listener.fileno())],
        env={**os.environ, "AI_HORDE_API_KEY": KEY, "HORDE_PROXY_SERVER__BIND": "127.0.0.1:1"},
        pass_fds=[listener.fileno()],
        stdout=output,
        stderr=output,
    )


@pytest.mark.timeout(800)
def test_no_connection_is_refused_while_a_service_with_a_socket_starts_anew(
    processes: Processes, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, (tmp_path / "said").open("wb") as said:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for _ in range(2):
            service = started_with(listener, said)
            processes.started.append(service)
            # The first connection comes before anything listens but the socket's owner.
            assert requests.get(f"{url}/health/live", timeout=250).ok
            service.send_signal(signal.SIGTERM)
            assert service.wait(120) == 0
        # What it serves is the socket, and not server.bind.
        assert (
            f"serves {url.removeprefix('http://')} in front of" in (tmp_path / "said").read_text()
        )


def test_serving_others_without_keys_is_refused_with_the_setting_that_opens_it() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "horde_proxy", "serve", "--bind", "0.0.0.0:8080"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 78
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


@pytest.mark.skipif(
    not Path("/run/systemd/system").is_dir() or os.geteuid() != 0,
    reason="systemd does not run here, or this is not root",
)
def test_systemd_runs_the_installed_service_and_nothing_is_left_of_it() -> None:
    places = ServiceFiles(is_system=True)
    if hidden_path([Path(sys.prefix), Path(sys.executable).resolve()]):
        pytest.skip("the service could not see this Python")
    if any(map(os.path.lexists, places.everything)):
        pytest.skip("a service is installed here, whose data this would remove")
    command = [sys.executable, "-m", "horde_proxy", "service"]
    try:
        key = subprocess.check_output([*command, "install", "--system"], text=True).strip()
        url, headers = "http://127.0.0.1:8080", {"Authorization": f"Bearer {key}"}
        until(lambda: answers(f"{url}/health/live"))
        assert requests.get(f"{url}/v1/usage", headers=headers, timeout=60).status_code == 200
        assert requests.get(f"{url}/v1/usage", timeout=60).status_code == 401
        assert places.settings.stat().st_mode & 0o777 == 0o600
        # The copy that the service has is the old one.
        places.settings.write_text("[server]\nplaces = 'many'\n")
        assert subprocess.call(["systemctl", "reload", "horde-proxy"]) != 0
        assert answers(f"{url}/health/live")
        assert subprocess.call(["systemctl", "restart", "horde-proxy"]) != 0
        shown = ["systemctl", "show", "horde-proxy", "-p", "ExecMainStatus,NRestarts"]
        lines = subprocess.check_output(shown, text=True).split()
        assert sorted(lines) == ["ExecMainStatus=78", "NRestarts=0"]
    finally:
        subprocess.run([*command, "uninstall", "--system", "--yes"], check=True)
    assert not any(map(os.path.lexists, places.everything))
