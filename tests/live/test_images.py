"""Pictures with real processes: a crowd on one anonymous key, and a power cut while they wait."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import requests

from horde_proxy.pictures import Raster
from tests.live.processes import KEY, Processes, answers, free_port, until

PAINTER = "horde-proxy/painter"
CROWD = 40


def painter(processes: Processes, url: str) -> subprocess.Popen[bytes]:
    """A worker that draws, whether the horde is there already or not."""
    options = ("--backend", "painter", "--idle", "0.05", "--drain", "0")
    return processes.start("worker", "--horde", url, *options)


def has_painter(url: str) -> bool:
    listed = requests.get(f"{url}/api/v2/status/models?type=image", timeout=60).json()
    return any(model["name"] == PAINTER and model["count"] for model in listed)


def resident_megabytes(process: subprocess.Popen[bytes]) -> float:
    """Of a process and its children, by /proc."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(
                line.split(":", 1) for line in status.read_text().splitlines() if ":" in line
            )
        except OSError:
            continue
        if str(process.pid) in (fields["Pid"].strip(), fields["PPid"].strip()):
            total += int(fields.get("VmRSS", "0 kB").split()[0])
    return total / 1000


def generate(url: str, prompt: str) -> requests.Response:
    body = {"prompt": prompt, "model": PAINTER, "size": "256x256"}
    return requests.post(f"{url}/v1/images/generations", json=body, timeout=300)


def test_a_crowd_with_one_anonymous_key_is_served_at_the_pace_of_the_horde(
    processes: Processes,
) -> None:
    horde = processes.serve_horde(
        private_horde__strict="true", private_horde__anonymous_concurrency="500"
    )
    painter(processes, horde)
    until(lambda: has_painter(horde))
    # The defaults of [horde]: two submits a second of an address, ninety a minute.
    proxy, process = processes.serve(
        endpoints=json.dumps([{"type": "horde", "url": horde, "api_key": "0000000000"}]),
        horde__validated_backends="false",
        horde__address_limits='["2/second", "90/minute"]',
        horde__key_limits='["2/second"]',
    )
    until(lambda: PAINTER in requests.get(f"{proxy}/v1/models", timeout=60).text)
    with ThreadPoolExecutor(CROWD) as pool:
        responses = list(pool.map(lambda n: generate(proxy, f"fox {n}"), range(CROWD)))
    assert [response.status_code for response in responses] == [200] * CROWD
    pictures = {response.json()["data"][0]["b64_json"] for response in responses}
    assert len(pictures) == CROWD
    assert Raster.read(base64.b64decode(pictures.pop())).size == (256, 256)
    counted = requests.get(f"{horde}/metrics", timeout=60).text.splitlines()
    submits = [line for line in counted if "generate/async" in line and "requests_total" in line]
    assert not [line for line in submits if 'status="429"' in line]
    assert resident_megabytes(process) < 400


def test_pictures_that_wait_come_after_a_power_cut(processes: Processes, tmp_path: Path) -> None:
    bind = f"127.0.0.1:{free_port()}"
    url = f"http://{bind}"
    settings = {
        "private_horde__enabled": "true",
        "private_horde__api_key": KEY,
        "private_horde__database": f"sqlite:///{tmp_path}/horde.db",
    }

    def start() -> subprocess.Popen[bytes]:
        process = processes.start("serve", "--bind", bind, **settings)
        until(lambda: answers(f"{url}/health/live"))
        return process

    def call(method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(
            method, f"{url}/api/v2/{path}", json=body, headers={"apikey": KEY}, timeout=60
        )
        assert answer.ok, answer.text
        return answer.json()

    server = start()
    body = {
        "prompt": "a fox in snow",
        "models": [PAINTER],
        "params": {"width": 128, "height": 64, "n": 2},
    }
    ids = [call("POST", "generate/async", body)["id"] for _ in range(3)]
    server.send_signal(signal.SIGKILL)
    # gunicorn's worker notices that its master has gone, and frees the port.
    server.wait()
    until(lambda: not answers(f"{url}/health/live"))

    start()
    painter(processes, url)

    def is_done(request_id: str) -> bool:
        return bool(call("GET", f"generate/check/{request_id}")["done"])

    for request_id in ids:
        until(partial(is_done, request_id))
        generations = call("GET", f"generate/status/{request_id}")["generations"]
        assert len(generations) == 2
        for generation in generations:
            picture = requests.get(generation["img"], timeout=60)
            assert picture.headers["Content-Type"] == "image/webp"
            assert Raster.read(picture.content).size == (128, 64)
