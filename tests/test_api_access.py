"""Who may use the proxy, how many may wait, and what is logged."""

from __future__ import annotations

import hashlib
import json
import logging
import tracemalloc
from typing import Any

import pytest
from flask.testing import FlaskClient

from horde_proxy import create_app, reconfigure
from horde_proxy.api.addresses import TrustedProxies
from horde_proxy.api.slots import Slots
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from horde_proxy.errors import Unavailable
from horde_proxy.ledger import ClientKey
from tests.support import OWNER_KEY, Clock, Scripted, World, known

LAPTOP, PHONE = "laptop-key-0123456789", "phone-key-0123456789"
KEYS = known(laptop=LAPTOP, phone="sha256:" + hashlib.sha256(PHONE.encode()).hexdigest())
BODY = {"model": "test/model", "messages": [{"role": "user", "content": "my own secret"}]}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {LAPTOP}"},
        {"api-key": LAPTOP},
        {"x-api-key": PHONE},
        {"apikey": PHONE},
    ],
)
def test_a_known_key_opens_in_every_form(world: World, headers: dict[str, str]) -> None:
    world.configure(**KEYS)
    world.employ(Scripted("Hello."))
    client = world.http()
    assert client.get("/v1/models", headers=headers).status_code == 200
    assert client.post("/chat/completions", json=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/models/x", "/v1/models/test/model"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong-key-0123456789"}])
def test_without_a_known_key_there_is_a_401(
    world: World, path: str, headers: dict[str, str]
) -> None:
    world.configure(**KEYS)
    response = world.http().get(path, headers=headers)
    assert response.status_code == 401
    assert response.json is not None
    assert response.json["error"]["code"] == "invalid_api_key"
    assert "wrong-key" not in response.text


GUESSES = [
    ("GET", "/v1/models"),
    ("GET", "/v1/endpoints"),
    ("GET", "/v1/usage"),
    ("GET", "/v1/horde/account"),
    ("GET", "/health/probe"),
    ("GET", "/metrics"),
    ("GET", "/page/state.json"),
    ("GET", "/page/events"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
]


@pytest.mark.parametrize(("method", "path"), GUESSES)
def test_ten_wrong_keys_a_minute_are_slowed_and_more_refused_on_every_route(
    world: World, method: str, path: str
) -> None:
    world.configure(**KEYS)
    http, began = world.http(), world.clock.seconds

    def guess(key: str, address: str = "10.1.2.3") -> Any:
        return http.open(
            path,
            method=method,
            headers={"Authorization": f"Bearer {key}"},
            environ_base={"REMOTE_ADDR": address},
        )

    assert [guess(f"guess-{number}").status_code for number in range(10)] == [401] * 10
    assert world.clock.seconds - began == 7 * 0.25
    refused = guess("guess-10")
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "59")
    assert refused.headers["x-should-retry"] == "false"
    assert refused.json["error"]["code"] == "too_many_wrong_keys"
    assert guess("guess-0").status_code == 401
    assert guess("guess-10", "10.1.2.4").status_code == 401
    allowed = guess(LAPTOP)
    assert allowed.status_code not in (401, 429)
    allowed.close()


def test_addresses_of_one_ipv6_network_guess_together(world: World) -> None:
    http = world.configure(**KEYS).http()
    statuses = [
        http.get(
            "/v1/models",
            headers={"api-key": f"guess-{number}"},
            environ_base={"REMOTE_ADDR": f"2001:db8:0:1::{number:x}"},
        ).status_code
        for number in range(11)
    ]
    assert statuses == [401] * 10 + [429]


def test_behind_an_undeclared_proxy_the_refusal_says_so(world: World) -> None:
    http = world.configure(**KEYS).http()

    def guess(number: int) -> Any:
        headers = {"api-key": f"guess-{number}", "X-Forwarded-For": f"10.0.0.{number}"}
        return http.get("/v1/models", headers=headers)

    refused = [guess(number) for number in range(11)][-1]
    assert refused.status_code == 429
    assert "server.trusted_proxies does not name that proxy" in refused.json["error"]["message"]


def test_behind_a_trusted_proxy_each_client_has_its_own_guesses(world: World) -> None:
    world.configure(**KEYS)
    http = world.configure(server={"trusted_proxies": ["127.0.0.1"]}).http()

    def guess(number: int, client: str) -> int:
        headers = {"api-key": f"guess-{number}", "X-Forwarded-For": client}
        return http.get("/v1/models", headers=headers).status_code

    assert [guess(number, f"10.0.0.{number}") for number in range(20)] == [401] * 20
    assert [guess(number, "10.0.1.1") for number in range(11)] == [401] * 10 + [429]


def test_in_passthrough_no_client_sees_anothers_usage(world: World) -> None:
    world.configure(access={"mode": "passthrough"})
    world.employ(Scripted("Hello."))
    http = world.http()

    def usage(address: str, **headers: str) -> list[tuple[str, int]]:
        answer = http.get("/v1/usage", headers=headers, environ_base={"REMOTE_ADDR": address})
        return [(row["key"], row["requests"]) for row in answer.get_json()["data"]]

    for address in ("192.168.7.77", "192.168.1.50", "2001:db8:0:1::5"):
        http.post("/v1/chat/completions", json=BODY, environ_base={"REMOTE_ADDR": address}).close()
    assert usage("192.168.1.5") == []
    assert usage("192.168.7.77") == [("address 192.168.7.77", 1)]
    assert usage("2001:db8:0:1::5") == [("address 2001:db8:0:1::5", 1)]
    http.post("/v1/chat/completions", json=BODY, headers={"api-key": OWNER_KEY}).close()
    account = "key " + hashlib.sha256(OWNER_KEY.encode()).hexdigest()[:32]
    assert usage("10.0.0.1", **{"api-key": OWNER_KEY}) == [(account, 1)]


def test_in_passthrough_guesses_at_the_hordes_keys_are_refused(world: World) -> None:
    world.configure(access={"mode": "passthrough"})
    world.employ(Scripted("Hello."))
    http = world.http()

    def guess(key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        return http.post("/v1/chat/completions", json=BODY, headers=headers).status_code

    statuses = [guess(f"guess-{number}") for number in range(11)]
    assert statuses == [401] * 10 + [429]
    assert guess(OWNER_KEY) == 200


def test_a_preflight_and_the_health_need_no_key(world: World) -> None:
    world.configure(**KEYS)
    assert world.http().options("/v1/chat/completions").status_code == 204
    assert world.http().get("/health/live").status_code == 200


def test_one_chat_too_many_is_refused_at_once(world: World) -> None:
    world.configure(server={"places": 1})
    world.bridge(Scripted("x")).step(world.session)
    client = world.http()
    first = client.post("/v1/chat/completions", json={**BODY, "stream": True})
    second = client.post("/v1/chat/completions", json=BODY)
    assert second.status_code == 503
    assert second.headers["Retry-After"] == "10"
    assert second.json is not None
    assert second.json["error"]["code"] == "busy"
    assert client.get("/v1/models").status_code == 200
    first.close()
    assert client.post("/v1/chat/completions", json={**BODY, "stream": True}).status_code == 200


def test_a_place_is_free_again_after_an_error(world: World) -> None:
    world.configure(server={"places": 1})
    world.employ(Scripted("Hello."))
    client = world.http()
    world.horde.maintenance = True
    assert client.post("/v1/chat/completions", json=BODY).status_code == 503
    world.horde.maintenance = False
    assert client.post("/v1/chat/completions", json=BODY).status_code == 200
    assert client.post("/v1/chat/completions", json=BODY).status_code == 200


def test_a_taken_place_is_an_error_before_anything_is_submitted() -> None:
    places = Slots(1)
    with places.held(), pytest.raises(Unavailable):
        places.acquire()
    places.acquire()


def logged(world: World, caplog: pytest.LogCaptureFixture, **fields: Any) -> dict[str, Any]:
    """The fields of the one request that was logged."""
    caplog.set_level(logging.INFO, "horde_proxy.requests")
    world.settings.setdefault("access", {"mode": "open"})
    response = world.http().post(
        "/v1/chat/completions",
        json={**BODY, **fields},
        headers={"Authorization": f"Bearer {LAPTOP}", "X-Forwarded-For": "203.0.113.9, 10.0.0.2"},
    )
    assert response.text
    response.close()
    [record] = [each for each in caplog.records if each.name == "horde_proxy.requests"]
    found: dict[str, Any] = record.fields  # type: ignore[attr-defined]
    assert "secret" not in caplog.text
    assert LAPTOP not in caplog.text
    return found


@pytest.mark.parametrize("stream", [True, False])
def test_a_chat_is_logged_in_one_line_without_prompt_and_key(
    world: World, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    world.configure(**KEYS)
    world.employ(Scripted("Hello."))
    found = logged(world, caplog, stream=stream)
    assert len(found.pop("id")) == 32
    assert len(found.pop("horde_request")) == 36
    assert found.pop("prompt_tokens") > 5
    assert found.pop("seconds") >= 0
    assert found == {
        "method": "POST",
        "path": "/v1/chat/completions",
        "client": "127.0.0.1",
        "status": 200,
        "model": "test/model",
        "upstream": "horde",
        "waited": 0.0,
        "generated": 0.25,
        "completion_tokens": 2,
        "kudos": 2.65,
        "key": "laptop",
    }


def test_an_error_is_logged_with_its_code(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.employ(Scripted("x"))
    found = logged(world, caplog, model="nope\nGET /fake 200")
    assert (found["status"], found["error"]) == (404, "model_not_found")
    assert "\n" not in caplog.messages[0]


def test_an_error_in_a_stream_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.configure(server={"stream_timeout": 5})
    world.bridge(Scripted("x")).step(world.session)
    found = logged(world, caplog, stream=True)
    assert (found["status"], found["error"]) == (200, "timeout")


def test_a_client_that_left_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "horde_proxy.requests")
    world.bridge(Scripted("x")).step(world.session)
    world.http().post("/v1/chat/completions", json={**BODY, "stream": True}).close()
    assert "error=client_closed_request" in caplog.text


def test_a_forwarded_address_is_believed_only_of_a_trusted_proxy(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.configure(server={"trusted_proxies": ["127.0.0.1", "10.0.0.2"]})
    world.employ(Scripted("Hello."))
    assert logged(world, caplog)["client"] == "203.0.113.9"


@pytest.mark.parametrize(
    ("entries", "address", "trusted"),
    [
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "11.1.2.3", False),
        (["10.0.0.2"], "10.0.0.2", True),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["fd00::/8"], "fd12::1", True),
        (["fd00::/8"], "10.1.2.3", False),
        (["10.0.0.0/8"], "", False),
        (["10.0.0.0/8"], "10.1.2.3:8080", False),
        (["*"], "10.1.2.3", False),
        ([], "127.0.0.1", False),
    ],
)
def test_a_network_trusts_all_of_its_proxies(
    entries: list[str], address: str, trusted: bool
) -> None:
    assert (address in TrustedProxies(entries)) is trusted


def test_health_checks_are_not_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "horde_proxy.requests")
    world.http().get("/health/live")
    assert caplog.records == []


def test_new_settings_hold_for_new_requests() -> None:
    private = {"private_horde": {"enabled": True, "api_key": "k" * 20}}
    app = create_app(load(environ={}, flags=private))
    client = app.test_client()
    assert client.get("/v1/models").status_code == 200
    keys = {"access": {"mode": "keys", "keys": {"laptop": LAPTOP}}}
    reconfigure(app, load(environ={}, flags={**private, **keys}))
    assert client.get("/v1/models").status_code == 401


@pytest.mark.parametrize(("mode", "status"), [("open", 202), ("passthrough", 401)])
def test_a_guarded_private_horde_takes_no_anonymous_requests(mode: str, status: int) -> None:
    flags = {"private_horde": {"enabled": True}, "access": {"mode": mode}}
    client = create_app(load(environ={}, flags=flags)).test_client()
    response = client.post(
        "/api/v2/generate/text/async", json={"prompt": "x"}, headers={"apikey": "0000000000"}
    )
    assert response.status_code == status


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/completions", {"prompt": "Hi"}),
    ],
)
def test_a_key_for_other_models_cannot_ask_the_horde_for_this_one(
    world: World, path: str, body: dict[str, Any]
) -> None:
    world.configure(**known(ann=ClientKey("ann", models=("other/*",)), bob=ClientKey("bob")))
    world.employ(Scripted("Hello."))
    http = world.http()

    def status(name: str) -> int:
        headers = {"Authorization": f"Bearer key-of-{name}-longer"}
        sent = {"model": "test/model", **body}
        return int(http.post(path, json=sent, headers=headers).status_code)

    assert (status("ann"), status("bob")) == (404, 200)


def test_a_keys_own_horde_key_pays(world: World) -> None:
    world.configure(**known(ann=ClientKey("ann", horde_key=OWNER_KEY)))
    world.employ(Scripted("Hello."))
    headers = {"Authorization": "Bearer key-of-ann-longer"}
    account = world.http().get("/v1/horde/account", headers=headers).get_json()
    assert account["name"].startswith("owner#")


# The private horde's calls from outside.

WORKERS_KEY = "key-of-the-private-horde"
POP = "/api/v2/generate/text/pop"
OFFER = {"name": "w", "models": ["test/model"], "max_length": 512, "max_context_length": 4096}


class ClosingClient(FlaskClient):
    """Reads and closes each response, as a server does: requests are logged when that is done."""

    def open(self, *arguments: Any, **options: Any) -> Any:
        return super().open(*arguments, **{"buffered": True, **options})


def private(clock: Clock, **sections: Any) -> FlaskClient:
    horde = {"enabled": True, "api_key": WORKERS_KEY}
    flags = {"private_horde": horde, "stats": {"hydrate": False}, **sections}
    # A loop in the background would let the clock run.
    runtime = Runtime(
        clock=clock,
        now=clock,
        sleep=clock.sleep,
        run=inline,
        run_loop=lambda loop: None,
        horde_sleep=clock.sleep,
    )
    app = create_app(load(environ={}, flags=flags), runtime)
    app.test_client_class = ClosingClient
    return app.test_client()


def log_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of all logged requests, but for their ids and seconds."""
    lines = [
        dict(record.fields)  # type: ignore[attr-defined]
        for record in caplog.records
        if record.name == "horde_proxy.requests"
    ]
    for line in lines:
        assert len(line.pop("id")) == 32
        assert line.pop("seconds") >= 0
    return lines


def test_calls_of_the_private_horde_are_logged_without_keys(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "horde_proxy.requests")
    http = private(Clock(), server={"trusted_proxies": ["127.0.0.1"]}, access={"mode": "open"})
    forwarded = {"X-Forwarded-For": "10.9.8.7"}
    assert http.post(POP, json={"models": [1]}, headers=forwarded).status_code == 400
    assert http.post(POP, json=OFFER, headers={"apikey": "wrong-key"}).status_code == 401
    assert http.post(POP, json={}, headers={"apikey": WORKERS_KEY}).status_code == 400
    assert http.get("/api/v2/nowhere").status_code == 404
    common = {"method": "POST", "path": POP, "client": "127.0.0.1"}
    assert log_lines(caplog) == [
        {**common, "client": "10.9.8.7", "status": 400},
        {**common, "status": 401, "error": "InvalidAPIKey"},
        {**common, "status": 400, "key": "owner#1"},
        {"method": "GET", "path": "/api/v2/nowhere", "client": "127.0.0.1", "status": 404},
    ]
    assert "wrong-key" not in caplog.text
    assert WORKERS_KEY not in caplog.text


def test_behind_a_trusted_proxy_each_client_of_the_private_horde_has_its_own_limits() -> None:
    horde = {"enabled": True, "api_key": WORKERS_KEY, "strict": True}
    server = {"trusted_proxies": ["127.0.0.1"]}
    http = private(Clock(), private_horde=horde, server=server, access={"mode": "open"})

    def remaining(client: str) -> str:
        response = http.get("/api/v2/workers", headers={"X-Forwarded-For": client})
        return response.headers["X-Ratelimit-Remaining"]

    assert [remaining("10.9.8.7"), remaining("10.9.8.7"), remaining("10.6.5.4")] == [
        "89",
        "88",
        "89",
    ]


def test_moderators_see_a_workers_own_address_behind_a_trusted_proxy() -> None:
    http = private(Clock(), server={"trusted_proxies": ["127.0.0.1"]}, access={"mode": "open"})
    headers = {"apikey": WORKERS_KEY}
    http.post(POP, json=OFFER, headers={**headers, "X-Forwarded-For": "10.9.8.7"})
    worker = http.get(f"/api/v2/workers/name/{OFFER['name']}", headers=headers).get_json()
    assert worker["ipaddr"] == "10.9.8.7"


def test_what_workers_and_waiting_clients_repeat_is_logged_only_with_a_result(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "horde_proxy.requests")
    http, headers = private(Clock()), {"apikey": WORKERS_KEY}
    assert http.post(POP, json=OFFER, headers=headers).status_code == 200
    assert http.get("/api/v2/status/heartbeat").status_code == 200
    assert log_lines(caplog) == []
    body = {"prompt": "my own secret", "models": ["test/model"]}
    answer = http.post("/api/v2/generate/text/async", json=body, headers=headers)
    assert http.get(f"/api/v2/generate/text/status/{answer.get_json()['id']}").status_code == 200
    assert http.post(POP, json=OFFER, headers=headers).status_code == 200
    assert http.get("/api/v2/generate/text/status/unknown").status_code == 404
    assert [(line["path"][8:29], line["status"]) for line in log_lines(caplog)] == [
        ("generate/text/async", 202),
        ("generate/text/pop", 200),
        ("generate/text/status/", 404),
    ]
    assert "secret" not in caplog.text


def test_calls_of_the_private_horde_are_in_the_metrics_but_not_on_the_page() -> None:
    http = private(Clock())
    for path in ("/api/v2/workers", "/api/v2/a", "/api/v2/b"):
        http.get(path)
    text = http.get("/metrics").text
    labels = 'model="none",route="{}",status="{}",upstream="none"'
    for route, status, count in (("/api/v2/workers", 200, 1), ("other", 404, 2)):
        sample = f"horde_proxy_requests_total{{{labels.format(route, status)}}} {count}.0"
        assert sample in text
    history = http.application.extensions["horde_proxy"].live.page.history
    assert sum(bucket.requests for bucket in history.buckets(None)) == 0


def test_a_chats_own_calls_of_the_private_horde_are_logged_as_the_chat_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "horde_proxy.requests")
    http = private(Clock())
    http.post(POP, json=OFFER, headers={"apikey": WORKERS_KEY})
    with http.post("/v1/chat/completions", json={**BODY, "stream": True}, buffered=False):
        pass
    assert [line["path"] for line in log_lines(caplog)] == ["/v1/chat/completions"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "find_user", 404),
        ("POST", "generate/text/async", 401),
        ("POST", "generate/text/pop", 401),
        ("POST", "generate/text/submit", 401),
        ("PUT", "workers/00000000-0000-4000-8000-000000000000", 401),
    ],
)
def test_guesses_at_the_private_hordes_keys_are_slowed_and_refused(
    method: str, path: str, status: int
) -> None:
    clock = Clock()
    http, began = private(clock), clock.seconds

    def guess(key: str) -> Any:
        return http.open(f"/api/v2/{path}", method=method, headers={"apikey": key})

    assert [guess(f"guess-{number}").status_code for number in range(10)] == [status] * 10
    assert clock.seconds - began == 7 * 0.25
    refused = guess("guess-10")
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "59")
    message = "Too many wrong API keys came from this address. Wait 59 s, or send the right key."
    assert refused.get_json() == {"message": message}
    assert guess("guess-0").status_code == status
    assert guess(WORKERS_KEY).status_code not in (401, 429)


def test_guesses_where_no_key_is_needed_are_refused_as_well() -> None:
    http = private(Clock())
    http.post(POP, json=OFFER, headers={"apikey": WORKERS_KEY})
    [worker] = http.get("/api/v2/workers").get_json()
    by_id, by_name = f"/api/v2/workers/{worker['id']}", f"/api/v2/workers/name/{worker['name']}"

    def guess(path: str, key: str) -> int:
        return int(http.get(path, headers={"apikey": key}).status_code)

    assert [guess(by_id, f"guess-{number}") for number in range(5)] == [200] * 5
    assert [guess(by_name, f"more-{number}") for number in range(5)] == [200] * 5
    assert [guess(by_id, "guess-10"), guess(by_name, "guess-11")] == [429, 429]
    assert [guess(by_id, WORKERS_KEY), guess(by_name, WORKERS_KEY)] == [200, 200]
    assert http.get(by_id).get_json() == http.get(by_id, headers={"apikey": "guess-0"}).get_json()


def test_guesses_are_counted_for_all_fronts_together() -> None:
    keys = {"access": {"mode": "keys", "keys": {"laptop": LAPTOP}}}
    http = private(Clock(), **keys)
    for number in range(10):
        http.get("/api/v2/find_user", headers={"apikey": f"guess-{number}"})
    assert http.get("/v1/models", headers={"api-key": "guess-10"}).status_code == 429
    assert http.get("/v1/models", headers={"api-key": LAPTOP}).status_code == 200


def test_guesses_by_chats_in_passthrough_do_not_slow_the_private_horde() -> None:
    clock = Clock()
    http = private(clock, access={"mode": "passthrough"})
    http.post(POP, json=OFFER, headers={"apikey": WORKERS_KEY})

    def guess(number: int) -> int:
        headers = {"Authorization": f"Bearer guess-{number}"}
        address = {"REMOTE_ADDR": f"10.0.0.{number}"}
        return http.post(
            "/v1/chat/completions", json=BODY, headers=headers, environ_base=address
        ).status_code

    assert [guess(number) for number in range(30)] == [401] * 30


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nowhere/", 404),
        ("GET", "/page/static/", 404),
        ("BREW" * 5000, "/v1/models/", 405),
        ("GET", "/api/v2/nowhere/", 404),
    ],
)
def test_answers_and_the_log_show_300_characters_of_a_path(
    method: str, path: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "horde_proxy.requests")
    http = private(Clock())
    response = http.open(path + "x" * 60_000, method=method)
    assert response.status_code == status
    assert len(response.data) < 600
    if "static" not in path:
        [line] = log_lines(caplog)
        assert line["path"] == path + "x" * (297 - len(path)) + "..."
        assert len(line["method"]) <= 20


def test_unknown_fields_are_counted_and_named_within_bounds(world: World) -> None:
    http = world.http()
    for unknown in ({f"f{number}": 1 for number in range(60_000)}, {"f" * 500_000: 1}):
        content = json.dumps({**BODY, "horde": unknown})
        tracemalloc.start()
        response = http.post("/v1/chat/completions", data=content)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20_000_000
        assert response.status_code == 400
        assert len(response.data) < 600
        assert response.get_json()["error"]["code"] == "unknown_parameter"
