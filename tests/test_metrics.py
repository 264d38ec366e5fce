"""What Prometheus is told: each family after known requests, and no label without bounds."""

from __future__ import annotations

import cProfile
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from horde_proxy import create_app, reconfigure
from horde_proxy.api.access_log import RequestLog
from horde_proxy.api.in_flight import InFlight
from horde_proxy.api.shared_answer import RequestInfo
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import BackgroundValue, inline
from horde_proxy.config import load
from horde_proxy.errors import UpstreamFailed
from horde_proxy.ledger import ClientKey
from horde_proxy.metrics import CurrentGauges, EndpointGauges, Metrics
from horde_proxy.telemetry import Telemetry
from horde_proxy.upstreams.base import Accepted
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.submit_queue import Limits, SubmitQueue
from horde_proxy.upstreams.horde.text import TEXT
from tests.support import HORDE_URL, Clock, Scripted, World, known

DASHBOARD = Path(__file__).parent.parent / "systemd" / "grafana-dashboard.json"
CHAT = {"model": "test/model", "messages": [{"role": "user", "content": "Hi"}]}
CHATS = "/chat/completions"
SERVER = "http://server.invalid:8000"
PRIVATE = {"private_horde": {"enabled": True}}
RELAYED = {
    "model": "served",
    "choices": [{"index": 0, "message": {"content": "Hello."}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}

Scrape = dict[str, float]


class Http:
    """A client that takes each answer to its end, as requests are counted there."""

    def __init__(self, app: Flask) -> None:
        self._client = app.test_client()

    def get(self, path: str, **extra: Any) -> Any:
        return self._client.get(path, buffered=True, **extra)

    def post(self, path: str, **extra: Any) -> Any:
        return self._client.post(path, buffered=True, **extra)

    def begin(self) -> Any:
        """A streamed answer that is not read yet."""
        return self._client.post("/v1/chat/completions", json={**CHAT, "stream": True})


def scraped(text: str) -> Scrape:
    """Each sample by its name and labels, as they are written."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def counted(http: Http, family: str) -> Scrape:
    """The samples of one name, by their labels."""
    found = scraped(http.get("/metrics").text)
    return {
        name.removeprefix(f"horde_proxy_{family}"): value
        for name, value in found.items()
        if re.fullmatch(rf"horde_proxy_{family}({{.*}})?", name)
    }


def one(http: Http, family: str) -> float:
    """The only sample of one name."""
    [value] = counted(http, family).values()
    return value


def busy(world: World) -> Http:
    """A client of a world whose worker answers at the first poll."""
    world.employ(Scripted("Hello."))
    return Http(world.app())


# What clients ask


def test_a_chat_is_counted_by_route_model_upstream_and_status(world: World) -> None:
    http = busy(world)
    http.post("/v1/chat/completions", json=CHAT)
    http.post("/chat/completions", json=CHAT)
    assert counted(http, "requests_total") == {
        '{model="test/model",route="/chat/completions",status="200",upstream="horde"}': 2
    }


def test_tokens_and_kudos_are_what_the_answer_says(world: World) -> None:
    http = busy(world)
    answer = http.post("/v1/chat/completions", json=CHAT).json
    assert counted(http, "tokens_total") == {
        '{kind="prompt",model="test/model",upstream="horde"}': answer["usage"]["prompt_tokens"],
        '{kind="completion",model="test/model",upstream="horde"}': answer["usage"][
            "completion_tokens"
        ],
    }
    assert one(http, "kudos_total") == answer["horde"]["kudos"] > 0


@pytest.mark.parametrize("is_stream", [True, False])
def test_the_seconds_in_queue_and_generation_and_to_the_first_text(
    world: World, is_stream: bool
) -> None:
    http = busy(world)
    began = world.clock()
    response = http.post("/v1/chat/completions", json={**CHAT, "stream": is_stream})
    assert response.status_code == 200
    passed = round(world.clock() - began, 3)
    assert passed > 0
    assert one(http, "first_text_seconds_count") == 1
    assert one(http, "first_text_seconds_sum") == passed
    assert one(http, "queue_seconds_count") == 1
    assert one(http, "generation_seconds_count") == 1
    spent = one(http, "queue_seconds_sum") + one(http, "generation_seconds_sum")
    assert round(spent, 3) == passed
    assert counted(http, "request_duration_seconds_count") == {'{route="/chat/completions"}': 1}


def test_a_request_that_came_in_time_is_not_late(world: World) -> None:
    http = busy(world)
    http.post("/v1/chat/completions", json=CHAT)
    assert one(http, "lateness_seconds_count") == 1
    assert one(http, "lateness_seconds_sum") == 0


def test_a_request_that_waited_longer_than_estimated_is_late(world: World) -> None:
    bridge = world.bridge(Scripted("Hello."))
    bridge.step(world.session)
    since = world.clock()
    world.clock.every_sleep.append(
        lambda: bridge.step(world.session) if world.clock() > since + 200 else None
    )
    world.configure(server={"timeout": 900})
    http = Http(world.app())
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert one(http, "lateness_seconds_count") == 1
    assert 150 < one(http, "lateness_seconds_sum") < 210


def test_a_failure_is_counted_by_its_code(world: World) -> None:
    http = busy(world)
    world.horde.maintenance = True
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 503
    assert counted(http, "requests_total") == {
        '{model="test/model",route="/chat/completions",status="503",upstream="none"}': 1
    }
    assert counted(http, "request_failures_total") == {
        '{error="maintenance",route="/chat/completions",upstream="none"}': 1
    }


def test_a_stream_that_breaks_off_is_a_failure_with_status_200(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    world.configure(server={"stream_timeout": 30})
    http = Http(world.app())
    http.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert counted(http, "request_failures_total") == {
        '{error="timeout",route="/chat/completions",upstream="horde"}': 1
    }
    assert list(counted(http, "requests_total")) == [
        '{model="test/model",route="/chat/completions",status="200",upstream="horde"}'
    ]


def test_a_route_that_does_not_exist_is_other(world: World) -> None:
    http = Http(world.app())
    http.get("/wp-login.php")
    http.post("/v1/models")
    assert counted(http, "requests_total") == {
        '{model="none",route="other",status="404",upstream="none"}': 1,
        '{model="none",route="other",status="405",upstream="none"}': 1,
    }
    assert counted(http, "request_failures_total") == {
        '{error="status_404",route="other",upstream="none"}': 1,
        '{error="status_405",route="other",upstream="none"}': 1,
    }


def test_health_checks_and_scrapes_are_not_counted(world: World) -> None:
    http = Http(world.app())
    http.get("/health/live")
    http.get("/health/ready")
    http.get("/metrics")
    assert counted(http, "requests_total") == {}


# What is relayed


@pytest.fixture
def server() -> Iterator[responses.RequestsMock]:
    """A server behind the proxy, which lists one model."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(f"{SERVER}/v1/models", json={"data": [{"id": "served"}]})
        yield mock


class Relay(World):
    """A proxy in front of the server alone."""

    def app(self) -> Any:
        flags = {
            "access": {"mode": "open"},
            "endpoints": [{"type": "openai", "name": "box", "url": SERVER, "prefix": "box/"}],
        }
        return create_app(load(environ={}, flags=flags), Runtime(run=inline))


def test_a_proxied_answer_is_counted_with_the_tokens_in_its_usage(
    server: responses.RequestsMock,
) -> None:
    server.post(f"{SERVER}/v1/chat/completions", json=RELAYED)
    http = Http(Relay().app())
    http.post("/v1/chat/completions", json={**CHAT, "model": "Box/SERVED"})
    http.post("/v1/chat/completions", json={**CHAT, "model": "box/*"})
    assert counted(http, "requests_total") == {
        '{model="box/served",route="/chat/completions",status="200",upstream="box"}': 2
    }
    assert counted(http, "tokens_total") == {
        '{kind="prompt",model="box/served",upstream="box"}': 14,
        '{kind="completion",model="box/served",upstream="box"}': 6,
    }
    assert counted(http, "first_text_seconds_count") == {'{upstream="box"}': 2}
    assert counted(http, "prompt_cache_tokens_total") == {}


def test_warm_tokens_of_prompts_are_counted_where_a_server_tells_them(
    server: responses.RequestsMock,
) -> None:
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 5},
    }
    server.post(f"{SERVER}/v1/chat/completions", json={**RELAYED, "usage": usage})
    http = Http(Relay().app())
    http.post("/v1/chat/completions", json={**CHAT, "model": "box/served"})
    assert counted(http, "prompt_cache_tokens_total") == {
        '{model="box/served",state="warm",upstream="box"}': 5,
        '{model="box/served",state="cold",upstream="box"}': 2,
    }


def test_a_proxied_path_is_counted_by_its_family(server: responses.RequestsMock) -> None:
    server.post(f"{SERVER}/v1/audio/speech", body=b"sound")
    server.get(f"{SERVER}/v1/evals/eval_1", json={})
    server.get(f"{SERVER}/v1/secret/thing", json={})
    http = Http(Relay().app())
    http.post("/v1/audio/speech", json={"model": "box/served", "input": "Hi"})
    http.get("/v1/evals/eval_1")
    http.get("/v1/secret/thing")
    assert counted(http, "requests_total") == {
        '{model="box/served",route="/audio",status="200",upstream="box"}': 1,
        '{model="none",route="/evals",status="200",upstream="box"}': 1,
        '{model="none",route="other",status="200",upstream="box"}': 1,
    }


def test_an_endpoint_that_fails_is_counted(server: responses.RequestsMock) -> None:
    server.post(f"{SERVER}/v1/chat/completions", status=500, json={"error": {"message": "no"}})
    http = Http(Relay().app())
    http.post("/v1/chat/completions", json={**CHAT, "model": "box/served"})
    assert counted(http, "request_failures_total") == {
        '{error="status_500",route="/chat/completions",upstream="box"}': 1
    }
    assert counted(http, "endpoint_running_requests") == {'{upstream="box"}': 0}


# What the horde is asked


def test_the_hordes_calls_go_by_their_name_and_status(world: World) -> None:
    http = busy(world)
    http.post("/v1/chat/completions", json=CHAT)
    calls = counted(http, "horde_calls_total")
    assert calls['{call="POST generate/text/async",status="202"}'] == 1
    assert calls['{call="GET generate/text/status",status="200"}'] >= 1
    assert calls['{call="GET workers",status="200"}'] >= 1
    assert calls['{call="GET status/models",status="200"}'] >= 1
    assert not [name for name in calls if "-" in name]


def test_a_refusal_and_a_lost_connection_have_different_statuses(world: World) -> None:
    metrics = Metrics(world.clock)
    client = HordeClient(
        HORDE_URL, world.session, contact="test", timeout=(1, 1), telemetry=metrics
    )
    with pytest.raises(UpstreamFailed):
        client.status(TEXT, "00000000-0000-0000-0000-000000000000")
    with responses.RequestsMock() as mock:
        mock.get(f"{HORDE_URL}/api/v2/workers", body=requests.ConnectionError())
        world.session.mount(HORDE_URL, requests.adapters.HTTPAdapter())
        with pytest.raises(UpstreamFailed):
            client.workers()
    found = scraped(metrics.text().decode())
    calls = {name: value for name, value in found.items() if "horde_calls_total" in name}
    assert calls == {
        'horde_proxy_horde_calls_total{call="GET generate/text/status",status="404"}': 1,
        'horde_proxy_horde_calls_total{call="GET workers",status="none"}': 1,
    }


def test_a_client_that_leaves_is_a_cancellation_and_a_failure(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    http = Http(world.app())
    stream = http.begin()
    next(iter(stream.response))
    stream.close()
    assert one(http, "cancellations_total") == 1
    assert counted(http, "request_failures_total") == {
        '{error="client_closed_request",route="/chat/completions",upstream="horde"}': 1
    }


def test_a_complete_answer_is_not_a_cancellation(world: World) -> None:
    http = busy(world)
    http.post("/v1/chat/completions", json=CHAT)
    assert one(http, "cancellations_total") == 0
    assert counted(http, "retries_total") == {}


def test_a_request_that_the_horde_lost_is_a_retry(world: World) -> None:
    http = busy(world)
    work = world.clock.every_sleep[0]

    def lose() -> None:
        """The first request is gone before a worker sees it."""
        for each in world.horde.open_requests():
            world.horde.cancel(each.id)
            world.clock.every_sleep[:] = [work]

    world.clock.every_sleep[:] = [lose]
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert counted(http, "retries_total") == {'{reason="lost"}': 1}


def test_faulted_requests_are_retried_as_often_as_allowed(world: World) -> None:
    world.employ_faulty()
    http = Http(world.app())
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 502
    assert counted(http, "retries_total") == {'{reason="faulted"}': world.config().horde.retries}


def test_an_empty_text_is_a_retry(world: World) -> None:
    texts = iter(["", "Hello."])

    class Empty(Scripted):
        def generate(self, payload: Any, cancelled: Any) -> str:
            return next(texts)

    world.employ(Empty("x"))
    http = Http(world.app())
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert counted(http, "retries_total") == {'{reason="bad_text"}': 1}


def test_submits_that_wait_in_the_queue_are_counted_with_their_seconds() -> None:
    clock, metrics = Clock(), Metrics()
    gate = SubmitQueue(
        Limits(address=("1/second",), key=()),
        sleep=clock.sleep,
        concurrency=lambda key: 30,
        now=clock,
        telemetry=metrics,
    )
    for _ in range(3):
        place = gate.new_ticket("key", "client")
        list(gate.wait_turn(place, "key", 1))
        with gate.sending(place):
            pass
    found = scraped(metrics.text().decode())
    assert found["horde_proxy_held_back_seconds_count"] == 2
    assert 2 <= found["horde_proxy_held_back_seconds_sum"] < 2.1


# Caches


def test_the_loads_of_a_cache_are_counted_and_its_age_is_shown() -> None:
    clock = Clock()
    metrics, values = Metrics(clock), iter([1, 2])

    def load() -> int:
        try:
            return next(values)
        except StopIteration:
            raise UpstreamFailed("no") from None

    cache = BackgroundValue(
        load, ttl=60, clock=clock, run=inline, name="numbers", telemetry=metrics
    )
    for seconds in (0, 30, 40, 60, 4):
        clock.seconds += seconds
        cache.get()
    found = scraped(metrics.text().decode())
    assert {name: value for name, value in found.items() if "numbers" in name} == {
        'horde_proxy_cache_hits_total{cache="numbers"}': 5,
        'horde_proxy_cache_refreshes_total{cache="numbers",result="ok"}': 2,
        'horde_proxy_cache_refreshes_total{cache="numbers",result="failed"}': 1,
        'horde_proxy_cache_age_seconds{cache="numbers"}': 64,
    }


def test_the_list_of_models_is_a_cache(world: World) -> None:
    http = busy(world)
    http.get("/v1/models")
    assert counted(http, "cache_refreshes_total") == {
        '{cache="status:text:horde",result="ok"}': 1,
        '{cache="workers:text:horde",result="ok"}': 1,
        '{cache="status:image:horde",result="ok"}': 1,
        '{cache="workers:image:horde",result="ok"}': 1,
    }
    assert counted(http, "cache_age_seconds") == {
        '{cache="status:text:horde"}': 0,
        '{cache="workers:text:horde"}': 0,
        '{cache="status:image:horde"}': 0,
        '{cache="workers:image:horde"}': 0,
    }


# How things stand


def test_waiting_clients_and_taken_places_are_gauges(world: World) -> None:
    world.configure(server={"places": 3})
    world.bridge(Scripted("x")).step(world.session)
    http = Http(world.app())
    stream = http.begin()
    events = iter(stream.response)
    assert counted(http, "waiting_requests")['{state="arrived"}'] == 1
    next(events)
    next(events)
    assert counted(http, "waiting_requests") == {
        '{state="arrived"}': 0,
        '{state="held_back"}': 0,
        '{state="waking"}': 0,
        '{state="in_line"}': 0,
        '{state="queued"}': 1,
        '{state="horde_unreachable"}': 0,
    }
    assert one(http, "running_requests") == 0
    assert counted(http, "places") == {'{state="taken"}': 1, '{state="free"}': 2}
    assert counted(http, "endpoint_running_requests") == {'{upstream="horde"}': 1}
    stream.close()
    assert counted(http, "waiting_requests")['{state="queued"}'] == 0
    assert counted(http, "places") == {'{state="taken"}': 0, '{state="free"}': 3}
    assert counted(http, "endpoint_running_requests") == {'{upstream="horde"}': 0}


def test_a_client_that_gets_text_is_not_waiting() -> None:
    register = InFlight(grace=10, window=60, clock=Clock())
    chunk = {"choices": [{"delta": {"content": "Hello."}}]}
    about = RequestInfo("id", "owner", "model", stream=True, began=0.0)
    with register.join("key", about, lambda: iter([Accepted(), chunk, chunk])) as reader:
        reader.next()
        assert list(register.wait_states()) == ["arrived"]
        reader.next()
        assert list(register.wait_states()) == ["generating"]
        while reader.next() is not None:
            pass
    assert list(register.wait_states()) == []


def test_an_endpoint_whose_models_cannot_be_listed_is_down(world: World) -> None:
    http = Http(world.app())
    assert counted(http, "endpoint_up") == {'{upstream="horde"}': 1}
    world.horde.maintenance = True
    with responses.RequestsMock() as mock:
        mock.get(f"{HORDE_URL}/api/v2/status/models", status=500, json={})
        world.session.mount(HORDE_URL, requests.adapters.HTTPAdapter())
        http.get("/v1/models")
    assert counted(http, "endpoint_up") == {'{upstream="horde"}': 0}


def test_a_cooling_endpoint_shows_its_seconds() -> None:
    now = CurrentGauges({}, 0, 0, [EndpointGauges("box", is_up=False, running=2, cooling=30)])
    found = scraped(Metrics().text(now).decode())
    assert found['horde_proxy_endpoint_up{upstream="box"}'] == 0
    assert found['horde_proxy_endpoint_running_requests{upstream="box"}'] == 2
    assert found['horde_proxy_endpoint_cooling_seconds{upstream="box"}'] == 30


def test_a_scrape_makes_no_call_to_the_horde(world: World) -> None:
    http = Http(world.app())
    http.get("/metrics")
    http.get("/metrics")
    assert counted(http, "horde_calls_total") == {}


# Labels have bounds


def test_many_unknown_models_and_paths_make_no_new_series(world: World) -> None:
    http = busy(world)
    http.post("/v1/chat/completions", json={**CHAT, "model": "unknown"})
    http.get("/nowhere")
    before = set(scraped(http.get("/metrics").text))
    for number in range(250):
        http.post("/v1/chat/completions", json={**CHAT, "model": f"unknown-{number}"})
        http.get(f"/nowhere/{number}")
    after = set(scraped(http.get("/metrics").text))
    assert after - before == set()


def test_of_a_thousand_models_two_hundred_get_series_of_their_own() -> None:
    metrics = Metrics()
    for number in range(1000):
        metrics.answered(CHATS, recorded(model=f"model-{number}"), lambda name: True)
    metrics.answered(CHATS, recorded(model="model-0"), lambda name: True)
    found = scraped(metrics.text().decode())
    requests = {name: value for name, value in found.items() if "requests_total" in name}
    assert len(requests) == 201
    assert [value for name, value in requests.items() if 'model="other"' in name] == [800]
    assert [value for name, value in requests.items() if 'model="model-0"' in name] == [2]


def test_statuses_errors_upstreams_and_calls_have_bounded_labels() -> None:
    metrics = Metrics()
    for number in range(1000):
        metrics.answered(
            CHATS, recorded(status=number, error=f"e{number}", upstream=f"u{number}"), bool
        )
        metrics.called(f"GET {number}", number)
    labels: dict[str, set[str]] = {}
    for name in scraped(metrics.text().decode()):
        for label, value in re.findall(r'(\w+)="([^"]*)"', name):
            labels.setdefault(label, set()).add(value)
    assert {
        label: len(values)
        for label, values in labels.items()
        if label in ("status", "error", "upstream", "call")
    } == {
        "status": 101,
        "error": 101,
        "upstream": 101,
        "call": 101 - 50,
    }


def test_a_name_that_is_not_utf8_is_counted() -> None:
    metrics = Metrics()
    metrics.answered(CHATS, recorded(model='a\ud800"\n'), lambda name: True)
    assert b'model="a?\\"\\n"' in metrics.text()


def test_a_label_cannot_command_the_terminal_that_shows_it() -> None:
    metrics = Metrics()
    metrics.answered(CHATS, recorded(model="a\x1b[2J\r\u202eb"), lambda name: True)
    gauges = CurrentGauges(endpoints=[EndpointGauges("h\x1b[2J", True, 0, 0.0)])
    text = metrics.text(gauges).decode()
    assert r'model="a\\x1b[2J\\r\\u202eb"' in text
    assert r'upstream="h\\x1b[2J"' in text
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "told",
    [-1, 10**400, float("nan"), float("inf"), "many", None],
    ids=["negative", "huge", "nan", "inf", "text", "none"],
)
def test_amounts_that_are_not_numbers_are_ignored(told: Any) -> None:
    metrics = Metrics()
    metrics.answered(
        CHATS,
        recorded(
            prompt_tokens=told, completion_tokens=told, kudos=told, waited=told, generated=told
        ),
        bool,
    )
    found = scraped(metrics.text().decode())
    assert len([name for name in found if "requests_total" in name]) == 1
    assert not [name for name in found if re.search("tokens|kudos|queue_|generation_s", name)]


def recorded(**fields: Any) -> RequestLog:
    record = RequestLog("id", "POST", CHATS, "127.0.0.1", status=200)
    for name, value in fields.items():
        setattr(record, name, value)
    return record


# The format


def everything(world: World) -> str:
    """The metrics after requests that touch each family."""
    world.employ(Scripted("Hello."))
    world.configure(endpoints=[{"type": "horde", "name": "horde", "max_concurrent": 5}])
    app = world.app()
    http = Http(app)
    http.post("/v1/chat/completions", json=CHAT)
    http.get("/nowhere")
    metrics = app.extensions["horde_proxy"].live.metrics
    metrics.retried("lost")
    metrics.held_back(1.5)
    metrics.woken("desktop", 31.0)
    metrics.idle_hook_ran("desktop", ok=True)
    metrics.in_line("horde", 1.5)
    metrics.answered("/v1/images/generations", recorded(images=2), bool)
    metrics.answered("/v1/chat/completions", recorded(prompt_tokens=2, cached_tokens=1), bool)
    return str(http.get("/metrics").text)


def test_the_answer_is_prometheus_text(world: World) -> None:
    response = Http(world.app()).get("/metrics")
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert list(text_string_to_metric_families(response.text))


def test_the_families_keep_prometheus_conventions(world: World) -> None:
    text = everything(world)
    types = dict(re.findall(r"^# TYPE (horde_proxy_\w+) (\w+)$", text, re.MULTILINE))
    assert types == {
        "horde_proxy_requests_total": "counter",
        "horde_proxy_request_failures_total": "counter",
        "horde_proxy_tokens_total": "counter",
        "horde_proxy_prompt_cache_tokens_total": "counter",
        "horde_proxy_kudos_total": "counter",
        "horde_proxy_images_total": "counter",
        "horde_proxy_request_duration_seconds": "histogram",
        "horde_proxy_first_text_seconds": "histogram",
        "horde_proxy_queue_seconds": "histogram",
        "horde_proxy_line_seconds": "histogram",
        "horde_proxy_generation_seconds": "histogram",
        "horde_proxy_horde_calls_total": "counter",
        "horde_proxy_retries_total": "counter",
        "horde_proxy_cancellations_total": "counter",
        "horde_proxy_held_back_seconds": "histogram",
        "horde_proxy_lateness_seconds": "histogram",
        "horde_proxy_cache_hits_total": "counter",
        "horde_proxy_cache_refreshes_total": "counter",
        "horde_proxy_wake_ups_total": "counter",
        "horde_proxy_boot_seconds": "histogram",
        "horde_proxy_idle_hooks_total": "counter",
        "horde_proxy_waiting_requests": "gauge",
        "horde_proxy_running_requests": "gauge",
        "horde_proxy_places": "gauge",
        "horde_proxy_endpoint_up": "gauge",
        "horde_proxy_endpoint_running_requests": "gauge",
        "horde_proxy_endpoint_asleep": "gauge",
        "horde_proxy_endpoint_paused": "gauge",
        "horde_proxy_endpoint_waiting_requests": "gauge",
        "horde_proxy_endpoint_slots": "gauge",
        "horde_proxy_endpoint_cooling_seconds": "gauge",
        "horde_proxy_cache_age_seconds": "gauge",
    }
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        assert family.samples, family.name
        assert all(
            re.fullmatch(r"[a-z_]+", label) for each in family.samples for label in each.labels
        ), family.name


def test_the_process_is_there_and_no_series_of_creation_times(world: World) -> None:
    found = scraped(Http(world.app()).get("/metrics").text)
    assert found["process_resident_memory_bytes"] > 1_000_000
    assert [name for name in found if name.startswith("python_info")]
    assert [name for name in found if name.startswith("python_gc_collections_total")]
    assert [name for name in found if "_created" in name] == []


# Who may see it


def test_with_keys_the_metrics_require_an_admins_key(world: World) -> None:
    bob = ClientKey("bob", admin=True)
    world.configure(**known(ann=ClientKey("ann"), bob=bob, eve=ClientKey("eve")))
    world.configure(access={"admins": ["eve"]})
    http = Http(world.app())

    def status(key: str) -> int:
        found: int = http.get("/metrics", headers={"Authorization": f"Bearer {key}"}).status_code
        return found

    assert http.get("/metrics").status_code == 401
    assert status("wrong-key-0123456789") == 401
    assert status("key-of-ann-longer") == 403
    assert status("key-of-bob-longer") == 200
    assert status("key-of-eve-longer") == 200


@pytest.mark.parametrize(
    "address, status",
    [
        ("127.0.0.1", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("", 200),
        ("192.168.1.7", 403),
        ("::ffff:192.168.1.7", 403),
        ("2001:db8::1", 403),
        ("somebody", 403),
    ],
)
def test_without_keys_the_metrics_are_for_this_machine(
    world: World, address: str, status: int
) -> None:
    response = Http(world.app()).get("/metrics", environ_base={"REMOTE_ADDR": address})
    assert response.status_code == status


@pytest.mark.parametrize(
    "header",
    [
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Real-IP",
        "Forwarded",
        "Via",
    ],
)
@pytest.mark.parametrize("address", ["127.0.0.1", ""])
def test_a_forwarded_client_does_not_count_as_this_machine(
    world: World, header: str, address: str
) -> None:
    response = Http(world.app()).get(
        "/metrics", headers={header: "127.0.0.1"}, environ_base={"REMOTE_ADDR": address}
    )
    assert response.status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"X-Forwarded-For": "127.0.0.1"}, 200),
        ({"X-Forwarded-For": "::1, 127.0.0.1", "Via": "1.1 nginx"}, 200),
        ({"X-Forwarded-For": "192.168.1.7"}, 403),
        ({"X-Forwarded-For": "127.0.0.1, 192.168.1.7"}, 403),
        ({"X-Forwarded-For": ","}, 403),
        ({"X-Forwarded-For": ""}, 403),
        ({"X-Real-IP": "127.0.0.1"}, 403),
        ({"Forwarded": "for=127.0.0.1"}, 403),
        ({"Via": "1.1 nginx"}, 403),
    ],
)
def test_a_trusted_proxys_client_counts_as_this_machine_by_its_own_address(
    world: World, headers: dict[str, str], status: int
) -> None:
    world.configure(server={"trusted_proxies": ["127.0.0.1"]})
    assert Http(world.app()).get("/metrics", headers=headers).status_code == status


def test_it_answers_while_all_places_are_taken(world: World) -> None:
    app = world.configure(server={"places": 1}).app()
    app.extensions["horde_proxy"].live.slots.acquire()
    assert Http(app).get("/metrics").status_code == 200


# Reload and cost


def test_new_settings_keep_what_was_counted() -> None:
    app = create_app(load(environ={}, flags=PRIVATE))
    http = Http(app)
    assert http.get("/v1/models").status_code == 200
    reconfigure(app, load(environ={}, flags={**PRIVATE, "horde": {"cache_ttl": 7}}))
    assert http.get("/v1/models").status_code == 200
    name = '{model="none",route="/models",status="200",upstream="none"}'
    assert counted(http, "requests_total") == {name: 2}
    # A list may be loaded once more meanwhile; counts that began anew would be 1.
    refreshes = counted(http, "cache_refreshes_total")
    assert all(count >= 2 for count in refreshes.values())
    assert set(refreshes) == {
        '{cache="status:text:private",result="ok"}',
        '{cache="workers:text:private",result="ok"}',
        '{cache="status:image:private",result="ok"}',
        '{cache="workers:image:private",result="ok"}',
    }


def test_each_app_counts_for_itself() -> None:
    one_app, other = (create_app(load(environ={}, flags=PRIVATE)) for _ in range(2))
    Http(one_app).get("/nowhere")
    assert counted(Http(other), "requests_total") == {}


def test_counting_a_request_takes_few_calls() -> None:
    """It happens in the thread that serves the client, after its answer."""
    metrics, profile = Metrics(), cProfile.Profile()
    record = recorded(
        model="test/model",
        upstream="horde",
        first_text=1.0,
        prompt_tokens=7,
        completion_tokens=3,
        seconds=2.0,
    )
    metrics.answered(CHATS, record, bool)  # the series are made by the first request
    profile.runcall(metrics.answered, CHATS, record, bool)
    assert sum(function.callcount for function in profile.getstats()) < 200


def test_the_base_telemetry_does_nothing() -> None:
    telemetry = Telemetry()
    telemetry.called("GET workers", 200)
    telemetry.refreshed("numbers", ok=True)
    telemetry.held_back(1.0)


# The dashboard


def expressions(dashboard: Any) -> Iterator[str]:
    """Every query, of panels and of variables."""
    if isinstance(dashboard, Mapping):
        for key, value in dashboard.items():
            if key in ("expr", "definition") and isinstance(value, str):
                yield value
            yield from expressions(value)
    elif isinstance(dashboard, list):
        for each in dashboard:
            yield from expressions(each)


def test_the_dashboard_queries_existing_metrics_only(world: World) -> None:
    there = {name.partition("{")[0] for name in scraped(everything(world))}
    dashboard = json.loads(DASHBOARD.read_text())
    asked = {
        name
        for expr in expressions(dashboard)
        for name in re.findall(r"\b(?:horde_proxy|process|python)_\w+", expr)
    }
    missing = asked - there - {"horde_proxy_request_failures_total"}
    assert missing == set()
    ours = {name for name in there if name.startswith("horde_proxy_")}
    shown = {re.sub("_(sum|count|bucket)$", "", name) for name in asked}
    assert {re.sub("_(sum|count|bucket)$", "", name) for name in ours} - shown == set()


def test_the_dashboards_panels_have_names_places_and_the_variable_source() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert next(each["name"] for each in dashboard["templating"]["list"]) == "datasource"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
