"""Real Caddy and Apache before the proxy, with the samples of systemd/; Traefik's sample is read.

The programs listen on loopback ports only, and are started here, not by their packages.
"""

from __future__ import annotations

import json
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
from tests.live.test_nginx import MODEL, body, completed, streamed

SAMPLES = Path(__file__).parent.parent.parent / "systemd"
PROGRAMS = {"Caddy": "caddy", "Apache": "apache2"}
MODULES = Path("/usr/lib/apache2/modules")

APACHE = """
ServerRoot {folder}
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {folder}/pid
ErrorLog {folder}/error.log
Mutex file:{folder} default
{modules}
{site}
"""
# The modules that the sample's first lines name, and those that Debian's package loads by itself.
_APACHE_MODULES = """mpm_event authn_core authz_core reqtimeout headers proxy proxy_http
    deflate filter http2"""


def caddy_site(port: int, proxy: str) -> str:
    """systemd/Caddyfile, but for the name, TLS and the address behind it."""
    text = (SAMPLES / "Caddyfile").read_text()
    text = text.replace("127.0.0.1:8080", proxy)
    text = text.replace("ai.home.example {", f"http://127.0.0.1:{port} {{\n\tbind 127.0.0.1")
    return "{\n\tadmin off\n\tauto_https off\n}\n" + text


def apache_site(port: int, proxy: str) -> str:
    """systemd/apache.conf, but for the port, TLS and the address behind it."""
    text = (SAMPLES / "apache.conf").read_text()
    text = text.replace("127.0.0.1:8080", proxy).replace("*:443", f"127.0.0.1:{port}")
    return re.sub(r"\n\s+SSL\w+\s.*", "", text)


@pytest.fixture
def before(tmp_path: Path, processes: Processes) -> Callable[[str, str], str]:
    """Starts a program, by its name and the proxy's URL; gives the program's URL."""

    def start(kind: str, url: str) -> str:
        if not shutil.which(PROGRAMS[kind]):
            pytest.skip(f"{PROGRAMS[kind]} is not installed")
        port, proxy = free_port(), url.removeprefix("http://")
        config = tmp_path / f"{kind}.conf"
        if kind == "Caddy":
            config.write_text(caddy_site(port, proxy))
            command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)]
        else:
            modules = "\n".join(
                f"LoadModule {name}_module {MODULES}/mod_{name}.so"
                for name in _APACHE_MODULES.split()
            )
            site = apache_site(port, proxy)
            config.write_text(APACHE.format(folder=tmp_path, port=port, modules=modules, site=site))
            command = ["apache2", "-DFOREGROUND", "-f", str(config)]
        home = {"HOME": str(tmp_path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        with (tmp_path / f"{kind}.log").open("wb") as log:
            processes.started.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=home, start_new_session=True)
            )
        found = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{found}/health/live"))
        return found

    return start


each_program = pytest.mark.parametrize("kind", [*PROGRAMS])


@each_program
def test_check_finds_nothing_to_mend_behind_our_sample(
    processes: Processes, before: Any, kind: str
) -> None:
    proxy = processes.serve_horde(access__mode="open")
    processes.work(proxy)
    url = before(kind, proxy)
    findings = list(check_url(url, None, requests.Session(), silence=False))
    assert [finding for finding in findings if not finding.ok] == []
    assert len(findings) == 4


@each_program
def test_it_does_not_open_a_proxy_without_an_access_mode(
    processes: Processes, before: Any, kind: str
) -> None:
    response = requests.get(f"{before(kind, processes.serve_horde())}/v1/models", timeout=60)
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "access_mode_required"


@each_program
def test_events_and_keep_alives_come_as_they_are_sent(
    processes: Processes, before: Any, kind: str
) -> None:
    """An event each half second, and the comments of a stream whose worker is silent."""
    proxy = processes.serve_horde(access__mode="open", server__keepalive_interval="1")
    processes.work(proxy, "--delay", "4")
    url = before(kind, proxy)
    began, arrived = time.monotonic(), []
    with requests.get(f"{url}/health/probe?seconds=2&interval=0.5", stream=True, timeout=60) as got:
        for line in got.iter_lines():
            if line:
                arrived.append((json.loads(line[6:])["seconds"], time.monotonic() - began))
    assert len(arrived) == 5
    # Buffered, all would come at the end.
    assert arrived[0][1] < 1.5
    assert arrived[-1][1] - arrived[0][1] > 1.5
    first, last, events = streamed(url)
    assert first < 3 < last
    assert len(events) > 4
    assert events[-1] == b"data: [DONE]"


@each_program
def test_a_name_with_a_slash_is_found(processes: Processes, before: Any, kind: str) -> None:
    proxy = processes.serve_horde(access__mode="open")
    processes.work(proxy)
    url = before(kind, proxy)
    assert requests.get(f"{url}/v1/models/horde-proxy%2Fecho", timeout=60).json()["id"] == MODEL


@each_program
def test_a_body_of_twenty_megabytes_comes_through(
    processes: Processes, before: Any, kind: str
) -> None:
    proxy = processes.serve_horde(access__mode="open")
    processes.work(proxy)
    message = {"role": "user", "content": "word " * (4 * 1024 * 1024)}
    url = f"{before(kind, proxy)}/v1/chat/completions"
    response = requests.post(url, json=body(messages=[message]), timeout=60)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


@each_program
def test_a_client_that_leaves_its_stream_is_noticed(
    processes: Processes, before: Any, kind: str
) -> None:
    """Both programs let an answer in one piece be made to its end, as operations.md says."""
    proxy = processes.serve_horde(access__mode="open")
    processes.work(proxy, "--delay", "300")
    url = before(kind, proxy)

    def leave() -> None:
        with pytest.raises(requests.RequestException):
            response = requests.post(
                f"{url}/v1/chat/completions", json=body(stream=True), timeout=2, stream=True
            )
            list(response.iter_lines())

    thread = threading.Thread(target=leave)
    thread.start()
    until(lambda: running_requests(proxy))
    thread.join()
    until(lambda: not running_requests(proxy))


@each_program
def test_the_address_that_a_trusted_program_names_is_believed(
    processes: Processes, before: Any, kind: str
) -> None:
    """Without an access mode only this machine is served, and the program says that it is one."""
    proxy, _ = processes.serve(server__trusted_proxies='["127.0.0.1"]')
    assert requests.get(f"{before(kind, proxy)}/v1/endpoints", timeout=60).status_code == 200


@pytest.mark.slow
@pytest.mark.timeout(200)
@each_program
def test_a_wait_of_ninety_seconds_comes_through(
    processes: Processes, before: Any, kind: str
) -> None:
    """A stream and an answer in one piece, which has no byte for so long."""
    proxy = processes.serve_horde(access__mode="open")
    processes.work(proxy, "--delay", "90", "--threads", "2")
    url = before(kind, proxy)
    with ThreadPoolExecutor() as pool:
        stream, whole = pool.submit(streamed, url), pool.submit(completed, url)
        first, last, lines = stream.result()
        assert (first < 60, last > 89) == (True, True)
        assert b'"finish_reason":"stop"' in lines[-2]
        assert whole.result() == "Hello you"


@pytest.mark.slow
@pytest.mark.timeout(120)
@each_program
def test_a_silence_of_sixty_seconds_is_no_time_out(
    processes: Processes, before: Any, kind: str
) -> None:
    """`check` waits for it, as for nginx."""
    proxy = processes.serve_horde(access__mode="open")
    processes.work(proxy)
    findings = list(check_url(before(kind, proxy), None, requests.Session()))
    assert [finding for finding in findings if not finding.ok] == []
    assert len(findings) == 5
