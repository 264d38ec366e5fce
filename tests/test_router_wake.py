"""An endpoint whose machine sleeps: its models stay, a request wakes it, and nothing else does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, jsonify, request
from flask.testing import FlaskClient

from horde_proxy.commands.check import check_endpoints
from horde_proxy.router.line import LineLimits
from horde_proxy.upstreams.base import Caller
from horde_proxy.upstreams.in_process import WSGIAdapter
from horde_proxy.upstreams.wake_on_lan import Datagram
from tests.support import Cable, World

DESKTOP, LAPTOP = "http://desktop.lan:11434", "http://laptop.lan:11434"
MAC = "aa:bb:cc:dd:ee:ff"
CHAT = {"model": "qwen3:8b", "messages": [{"role": "user", "content": "Hi"}]}


class Server:
    """A server on a machine that sleeps: it answers while `cable` is not cut."""

    def __init__(self, name: str, *models: str) -> None:
        self.name, self.models, self.chats = name, models, 0
        self.health = 404
        app = Flask(name, static_folder=None)
        app.get("/v1/models")(self._models)
        app.get("/health")(self._health)
        app.post("/v1/chat/completions")(self._chat)
        app.get("/v1/files")(self._files)
        self.cable = Cable(WSGIAdapter(app))

    @property
    def calls(self) -> list[str]:
        return self.cable.calls

    def _health(self) -> tuple[str, int]:
        return "", self.health

    def _files(self) -> Response:
        return jsonify({"object": "list", "data": []})

    def _models(self) -> Response:
        models = [{"id": name, "loaded": True} for name in self.models]
        return jsonify({"object": "list", "data": models})

    def _chat(self) -> Response:
        self.chats += 1
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": f"I am {self.name}."},
            "finish_reason": "stop",
        }
        body = request.get_json()
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        return jsonify({**answer, "choices": [choice]})


class House:
    """A proxy with a desktop that sleeps, and whatever else the settings name.

    The desktop boots `boot` seconds after the first packet; None: it does not.
    """

    def __init__(self, folder: Path, *others: dict[str, Any], **sections: Any) -> None:
        self.world = World()
        self.clock = self.world.clock
        self.desktop, self.laptop = Server("desktop", "qwen3:8b"), Server("laptop", "qwen3:8b")
        self.world.session.mount(DESKTOP, self.desktop.cable)
        self.world.session.mount(LAPTOP, self.laptop.cable)
        self.packets: list[Datagram] = []
        self.hooks: list[Any] = []
        self.boot: float | None = 30.0
        self.world.runtime = replace(
            self.world.runtime,
            models_folder=lambda: folder,
            send_datagram=self._send,
            can_connect=lambda host, port, seconds: not self._cable_to(host).is_cut,
            run_hook=lambda hook, name, idle: self.hooks.append(hook),
        )
        desktop = {"url": DESKTOP, "name": "desktop", "wake": MAC, "boot_seconds": 60}
        self.desktop_settings = desktop
        self.world.configure(endpoints=[desktop, *others], **sections)

    def http(self) -> FlaskClient:
        """A proxy that starts now."""
        return self.world.http()

    def fall_asleep(self, http: FlaskClient) -> None:
        """Let the desktop be known, and then sleep."""
        assert listed(http)
        self.desktop.cable.is_cut = True
        self.clock.sleep(70)
        assert listed(http)
        assert state(http)["state"] == "asleep"
        self.desktop.calls.clear()

    def _send(self, datagram: Datagram) -> None:
        self.packets.append(datagram)
        if self.boot is not None and len(self.packets) % 2 == 1:
            self.clock.run_later(self.boot, self.start)

    def start(self) -> None:
        self.desktop.cable.is_cut = False

    def _cable_to(self, host: str) -> Cable:
        return (self.desktop if host == "desktop.lan" else self.laptop).cable


LAPTOP_SETTINGS = {"url": LAPTOP, "name": "laptop"}


def listed(http: FlaskClient) -> list[str]:
    return [model["id"] for model in http.get("/v1/models").json["data"]]  # type: ignore[index]


def state(http: FlaskClient, name: str = "desktop") -> dict[str, Any]:
    states = http.get("/v1/endpoints").json["data"]  # type: ignore[index]
    return next(dict(found) for found in states if found["name"] == name)


def answer(response: Any) -> str:
    assert response.status_code == 200, response.text
    content = str(response.json["choices"][0]["message"]["content"])
    response.close()
    return content


def test_the_models_of_a_machine_that_sleeps_stay_and_nothing_is_sent_to_it(
    tmp_path: Path,
) -> None:
    house = House(tmp_path)
    http = house.http()
    house.fall_asleep(http)
    for _ in range(100):
        house.clock.sleep(60)
        assert listed(http) == ["qwen3:8b"]
    assert (house.desktop.calls, house.packets) == ([], [])
    ready = http.get("/health/ready")
    assert (ready.status_code, ready.json) == (200, {"status": "ok", "models": 1, "asleep": 1})
    assert state(http)["last_error"] is None


def test_the_models_are_still_there_after_a_restart_of_the_proxy(tmp_path: Path) -> None:
    house = House(tmp_path)
    assert listed(house.http()) == ["qwen3:8b"]
    house.desktop.cable.is_cut = True
    http = house.http()
    assert listed(http) == ["qwen3:8b"]
    assert state(http)["state"] == "asleep"
    assert house.packets == []
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am desktop."


def test_no_model_of_a_machine_that_sleeps_is_in_memory(tmp_path: Path) -> None:
    house = House(tmp_path)
    http = house.http()
    assert http.get("/v1/models/qwen3:8b").json["loaded"] is True  # type: ignore[index]
    house.fall_asleep(http)
    assert http.get("/v1/models/qwen3:8b").json["loaded"] is False  # type: ignore[index]
    answer(http.post("/v1/chat/completions", json=CHAT))
    assert http.get("/v1/models/qwen3:8b").json["loaded"] is True  # type: ignore[index]


def test_a_chat_that_a_machine_falls_asleep_under_fails_and_the_next_one_wakes_it(
    tmp_path: Path,
) -> None:
    house = House(tmp_path)
    http = house.http()
    answer(http.post("/v1/chat/completions", json=CHAT))
    # It has answered a moment ago, so that nobody looks again.
    house.desktop.cable.is_cut = True
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 502
    assert (state(http)["state"], house.packets) == ("asleep", [])
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am desktop."


def test_a_machine_of_the_same_priority_boots_when_the_others_are_busy(tmp_path: Path) -> None:
    house = House(tmp_path, LAPTOP_SETTINGS)
    app = house.world.app()
    http = app.test_client()
    house.fall_asleep(http)
    _, laptop = app.extensions["horde_proxy"].router.endpoints
    laptop.line.clock = house.clock
    laptop.line.configure(LineLimits(endpoint=1))
    slot = laptop.line.try_enter("qwen3:8b", Caller())
    house.clock.run_later(5.0, slot.free)
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am laptop."
    assert (len(house.packets), state(http)["state"]) == (4, "waking")


def test_a_damaged_file_of_models_is_not_used(tmp_path: Path) -> None:
    house = House(tmp_path)
    assert listed(house.http()) == ["qwen3:8b"]
    [file] = tmp_path.iterdir()
    file.write_text('[{"id": "a\\nb"}, 5, ', encoding="utf-8")
    assert listed(house.http()) == ["qwen3:8b"]
    house.desktop.cable.is_cut = True
    file.write_text("{}", encoding="utf-8")
    http = house.http()
    response = http.get("/v1/models")
    assert response.status_code == 502
    assert state(http)["state"] == "asleep"


def test_a_chat_wakes_the_machine_and_is_answered(tmp_path: Path) -> None:
    house = House(tmp_path)
    http = house.http()
    house.fall_asleep(http)
    began = house.clock()
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am desktop."
    assert 30 <= house.clock() - began < 33
    # Two broadcasts every five seconds.
    assert len(house.packets) == 14
    assert {(packet.host, packet.port, packet.towards) for packet in house.packets} == {
        ("255.255.255.255", 9, None),
        ("255.255.255.255", 9, "desktop.lan"),
    }
    assert state(http)["state"] == "up"
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am desktop."
    assert len(house.packets) == 14


def test_a_machine_that_fell_asleep_since_it_last_answered_is_noticed_before_a_chat(
    tmp_path: Path,
) -> None:
    house = House(tmp_path)
    http = house.http()
    assert listed(http)
    house.clock.sleep(10)
    house.desktop.cable.is_cut = True
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am desktop."
    assert state(http)["state"] == "up"
    assert state(http)["last_error"] is None


def test_a_server_that_loads_its_model_after_the_boot_gets_no_chat_yet(tmp_path: Path) -> None:
    house = House(tmp_path)
    http = house.http()
    house.fall_asleep(http)
    house.desktop.health = 503
    house.clock.run_later(45.0, lambda: setattr(house.desktop, "health", 200))
    began = house.clock()
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am desktop."
    assert 45 <= house.clock() - began < 48
    assert house.desktop.chats == 1


def test_a_machine_that_never_boots_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    house = House(tmp_path)
    http = house.http()
    house.fall_asleep(http)
    house.boot = None
    response = http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 502
    assert response.json["error"]["message"] == (  # type: ignore[index]
        "The endpoint 'desktop' failed: it did not wake up within 60 s. The owner of this proxy "
        "should look at `wake`, at Wake-on-LAN in the settings of its machine, and at "
        "`boot_seconds`"
    )
    now = state(http)
    assert now["state"] == "asleep"
    assert now["last_error"].startswith("it did not wake up within 60 s")


def test_a_machine_that_never_boots_cools_down_beside_others_and_they_answer(
    tmp_path: Path,
) -> None:
    house = House(tmp_path, {**LAPTOP_SETTINGS, "priority": 1}, routing={"cooldown": 20})
    http = house.http()
    house.fall_asleep(http)
    house.boot = None
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am laptop."
    assert (state(http)["state"], state(http)["retry_in"]) == ("cooling", 20)
    sent = len(house.packets)
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am laptop."
    assert len(house.packets) == sent


def test_a_lower_priority_number_is_worth_the_time_to_boot(tmp_path: Path) -> None:
    house = House(tmp_path, {**LAPTOP_SETTINGS, "priority": 1})
    http = house.http()
    house.fall_asleep(http)
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am desktop."


def test_of_one_priority_those_that_are_awake_answer_and_the_other_goes_on_sleeping(
    tmp_path: Path,
) -> None:
    house = House(tmp_path, LAPTOP_SETTINGS)
    http = house.http()
    house.fall_asleep(http)
    for _ in range(5):
        assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am laptop."
    assert house.packets == []


def test_a_machine_that_boots_longer_than_max_wait_boots_while_another_answers(
    tmp_path: Path,
) -> None:
    house = House(tmp_path, {**LAPTOP_SETTINGS, "priority": 1}, routing={"max_wait": 20})
    http = house.http()
    house.fall_asleep(http)
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am laptop."
    assert state(http)["state"] == "waking"
    for _ in range(35):
        house.clock.sleep(1)
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am desktop."


def test_a_machine_that_boots_longer_than_max_wait_comes_after_fallbacks(tmp_path: Path) -> None:
    house = House(
        tmp_path,
        {**LAPTOP_SETTINGS, "priority": 1, "prefix": "small/"},
        routing={"max_wait": 20},
        fallbacks={"qwen3:8b": ["small/qwen3:8b"]},
    )
    http = house.http()
    house.fall_asleep(http)
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am laptop."
    assert state(http)["state"] == "waking"


def test_without_max_wait_the_client_waits_for_the_model_that_it_named(tmp_path: Path) -> None:
    house = House(
        tmp_path,
        {**LAPTOP_SETTINGS, "priority": 1, "prefix": "small/"},
        fallbacks={"qwen3:8b": ["small/qwen3:8b"]},
    )
    http = house.http()
    house.fall_asleep(http)
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am desktop."


def test_a_call_that_names_no_model_waits_for_the_machine_too(tmp_path: Path) -> None:
    house = House(tmp_path)
    http = house.http()
    house.fall_asleep(http)
    response = http.get("/v1/files", headers={"X-Endpoint": "desktop"})
    assert (response.status_code, response.headers["X-Endpoint"]) == (200, "desktop")
    assert house.packets


def test_an_unknown_model_wakes_nobody(tmp_path: Path) -> None:
    house = House(tmp_path)
    http = house.http()
    house.fall_asleep(http)
    assert http.post("/v1/chat/completions", json={**CHAT, "model": "gone"}).status_code == 404
    assert (house.packets, house.desktop.calls) == ([], [])


def test_metrics_show_a_machine_that_sleeps_as_up_and_asleep(tmp_path: Path) -> None:
    house = House(tmp_path)
    http = house.http()
    house.fall_asleep(http)
    text = http.get("/metrics").text
    assert 'horde_proxy_endpoint_up{upstream="desktop"} 1.0' in text
    assert 'horde_proxy_endpoint_asleep{upstream="desktop"} 1.0' in text
    answer(http.post("/v1/chat/completions", json=CHAT))
    text = http.get("/metrics").text
    assert 'horde_proxy_endpoint_asleep{upstream="desktop"} 0.0' in text
    assert 'horde_proxy_wake_ups_total{result="ok",upstream="desktop"} 1.0' in text
    assert 'horde_proxy_boot_seconds_count{upstream="desktop"} 1.0' in text


def test_the_log_says_once_that_a_machine_sleeps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="horde_proxy.upstreams")
    house = House(tmp_path)
    http = house.http()
    house.fall_asleep(http)
    for _ in range(30):
        house.clock.sleep(60)
        listed(http)
    assert [record.getMessage() for record in caplog.records] == [
        "desktop is asleep: it does not answer"
    ]


def test_check_calls_a_machine_that_sleeps_asleep_and_wakes_nobody(tmp_path: Path) -> None:
    house = House(tmp_path)
    listed(house.http())
    house.desktop.cable.is_cut = True
    settings = house.world.config()
    findings = list(check_endpoints(settings, house.world.runtime))
    assert [(finding.what, finding.fix) for finding in findings] == [
        ("endpoint desktop (home): asleep, 1 models when it was awake", "")
    ]
    next(tmp_path.iterdir()).unlink()
    [finding] = check_endpoints(settings, house.world.runtime)
    assert (finding.what, finding.ok) == (
        "endpoint desktop: asleep, and its models are not known here: start it once, and run this "
        "again",
        True,
    )
    assert house.packets == []


def test_check_looks_for_the_program_of_an_idle_hook(tmp_path: Path) -> None:
    house = House(tmp_path)
    hook = {"idle_after": 10, "idle_hook": ["/nowhere/suspend", "desktop"]}
    house.world.configure(endpoints=[{**house.desktop_settings, **hook}])
    findings = list(check_endpoints(house.world.config(), house.world.runtime))
    assert [(finding.what, finding.fix) for finding in findings] == [
        (
            "endpoint desktop: its idle_hook runs /nowhere/suspend, which is not installed",
            "install the program, or write its whole path",
        ),
        ("endpoint desktop (home): 1 models", ""),
    ]


def test_the_idle_hook_puts_the_machine_to_sleep_and_a_chat_wakes_it_again(tmp_path: Path) -> None:
    house = House(tmp_path)
    hook = {"idle_after": 10, "idle_hook": ["suspend", "desktop"]}
    house.world.configure(endpoints=[{**house.desktop_settings, **hook}])
    http = house.http()
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am desktop."
    for _ in range(11):
        house.clock.sleep(60)
        listed(http)
    assert house.hooks == [["suspend", "desktop"]]
    assert state(http)["state"] == "asleep"
    house.desktop.cable.is_cut = True
    assert answer(http.post("/v1/chat/completions", json=CHAT)) == "I am desktop."
    assert house.packets


def test_the_file_holds_the_list_as_clients_saw_it(tmp_path: Path) -> None:
    house = House(tmp_path)
    listed(house.http())
    [file] = tmp_path.iterdir()
    [model] = json.loads(file.read_text(encoding="utf-8"))
    assert (model["id"], model["object"]) == ("qwen3:8b", "model")
