"""Notices for the operator: when they are sent, to whom, and that each is sent once."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import requests
import responses

from horde_proxy import reconfigure
from horde_proxy.app.factory import composition_of
from horde_proxy.app.notices import endpoint_facts
from horde_proxy.caching.background import inline
from horde_proxy.commands.check import check_notices
from horde_proxy.config import ConfigError, load
from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import ShuttingDown, Unreachable
from horde_proxy.notices.conditions import (
    Facts,
    NoticeLimits,
    Standing,
    WatchedEndpoint,
    WatchedModel,
    observations,
)
from horde_proxy.notices.sent_in_database import SentInDatabase
from horde_proxy.notices.sent_notices import SentInMemory, SentNotices
from horde_proxy.notices.targets import NtfyTarget, WebhookTarget
from horde_proxy.notices.watch import NoticeOptions, NoticeWatch
from horde_proxy.router import CircuitBreaker, Endpoint, Router
from horde_proxy.upstreams.power import Power
from horde_proxy.upstreams.webhook_signature import signed_headers
from tests.support import CLIENT_KEY, Clock, Scripted, World
from tests.test_router import Offering

HOOK, TOPIC = "https://receiver.invalid/hook", "https://ntfy.invalid/my-topic"
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
DOWN = WatchedEndpoint("home", is_up=False, reason="it cannot be reached.")
UP, ASLEEP = WatchedEndpoint("home", is_up=True), WatchedEndpoint("home", is_up=False)


class Receiver:
    """A watch whose facts a test sets, and what it has posted."""

    def __init__(self, sent: SentNotices | None = None, *targets: Any, **limits: Any) -> None:
        self.clock, self.facts = Clock(), Facts()
        self.calls: list[tuple[str, bytes, Mapping[str, str]]] = []
        self.failures: list[str] = []
        self.options = NoticeOptions(
            targets or (NtfyTarget(TOPIC),),
            NoticeLimits(**limits),
            self.post,
            lambda: self.facts,
            sent,
        )
        self.watch = self.new_watch()

    def new_watch(self) -> NoticeWatch:
        """That of a process which has just begun."""
        return NoticeWatch(
            lambda: self.options,
            clock=self.clock,
            now=self.clock,
            sleep=self.clock.sleep,
            run_loop=lambda loop: None,
        )

    def post(self, url: str, content: bytes, headers: Mapping[str, str]) -> str | None:
        self.calls.append((url, content, headers))
        return self.failures.pop(0) if self.failures else None

    def look(self, *endpoints: WatchedEndpoint, after: float = 0, **facts: Any) -> list[str]:
        """The titles that the next look sends, so many seconds later."""
        self.clock.seconds += after
        self.facts = Facts(endpoints, **facts)
        before = len(self.calls)
        self.watch.look()
        return [headers["Title"] for _, _, headers in self.calls[before:]]


def test_an_endpoint_is_down_once_it_has_been_so_for_long_enough() -> None:
    receiver = Receiver()
    assert receiver.look(DOWN) == []
    assert receiver.look(DOWN, after=299) == []
    assert receiver.look(DOWN, after=1) == ["home is down"]
    assert receiver.look(DOWN, after=600) == []
    assert receiver.look(UP, after=30) == ["home is up again"]
    assert receiver.look(UP, after=30) == []
    texts = [content.decode() for _, content, _ in receiver.calls]
    assert texts == [
        "The endpoint home has not answered for 5 min: it cannot be reached.",
        "The endpoint home answers again.",
    ]


def test_a_failure_that_ends_in_time_is_no_notice() -> None:
    receiver = Receiver()
    assert receiver.look(DOWN) + receiver.look(UP, after=200) == []
    assert receiver.look(DOWN, after=30) + receiver.look(DOWN, after=299) == []
    assert receiver.look(DOWN, after=1) == ["home is down"]


def test_asleep_is_neither_down_nor_up() -> None:
    receiver = Receiver()
    assert receiver.look(DOWN) + receiver.look(ASLEEP, after=200) == []
    assert receiver.look(DOWN, after=200) + receiver.look(DOWN, after=299) == []
    assert receiver.look(DOWN, after=1) == ["home is down"]
    assert receiver.look(ASLEEP, after=30) == []
    assert receiver.look(UP, after=30) == ["home is up again"]


def test_kudos_that_are_low_are_told_once_and_again_when_there_are_enough() -> None:
    receiver = Receiver(kudos_below=1000)
    assert receiver.look(kudos={"horde": None}) == []
    assert receiver.look(kudos={"horde": 999.6}) == ["Kudos are low at horde"]
    # Each chat moves them a little up and down.
    assert receiver.look(kudos={"horde": 1050}) + receiver.look(kudos={"horde": 990}) == []
    assert receiver.look(kudos={"horde": 1100}) == ["Kudos are enough again at horde"]
    assert receiver.calls[0][1] == b"The account at horde has 1000 kudos left, less than 1000."


def test_a_favourite_that_is_gone_is_told_with_the_nearest_that_is_there() -> None:
    receiver = Receiver(after=60)
    gone = WatchedModel("Stheno-v3.2", is_gone=True, nearest="Stheno-v3.3")
    assert receiver.look(favourites=[gone]) == []
    assert receiver.look(favourites=[gone], after=60) == ["Stheno-v3.2 is gone"]
    assert receiver.look(favourites=[WatchedModel("Stheno-v3.2", is_gone=None)]) == []
    back = WatchedModel("Stheno-v3.2", is_gone=False)
    assert receiver.look(favourites=[back]) == ["Stheno-v3.2 is back"]
    assert receiver.calls[0][1].decode() == (
        "No endpoint has offered the model Stheno-v3.2 for 1 min. "
        "The nearest model that is there: Stheno-v3.3."
    )


def test_a_restart_repeats_no_notice(tmp_path: Any) -> None:
    def sent() -> SentInDatabase:
        url = f"sqlite:///{tmp_path}/store.db"
        return SentInDatabase(Database(url, setting="store.database"), lambda: 1000.0)

    receiver = Receiver(sent(), after=0)
    assert receiver.look(DOWN) == ["home is down"]
    receiver.watch = receiver.new_watch()
    receiver.options = replace(receiver.options, sent=sent())
    assert receiver.look(DOWN, after=600) == []
    # It has recovered while no proxy ran.
    receiver.watch = receiver.new_watch()
    assert receiver.look(UP) == ["home is up again"]


def test_of_two_processes_one_sends() -> None:
    receiver = Receiver(SentInMemory(), after=0)
    other = receiver.new_watch()
    assert receiver.look(DOWN) == ["home is down"]
    other.look()
    assert len(receiver.calls) == 1
    receiver.facts = Facts([UP])
    other.look()
    receiver.watch.look()
    assert len(receiver.calls) == 2


def test_a_host_that_sees_an_endpoint_up_leaves_the_notice_of_another_host() -> None:
    receiver = Receiver(SentInMemory(), after=0)
    other = receiver.new_watch()
    receiver.facts = Facts([UP])
    other.look()
    assert receiver.look(DOWN) == ["home is down"]
    receiver.facts = Facts([UP])
    other.look()
    assert receiver.look(DOWN) == []


def test_what_does_not_arrive_is_sent_again_after_a_while() -> None:
    receiver = Receiver(None, NtfyTarget(TOPIC), NtfyTarget(HOOK, name="second"), after=0)
    receiver.failures = ["it answered 503"]
    assert receiver.look(DOWN) == ["home is down", "home is down"]
    assert receiver.look(DOWN, after=299) == []
    assert receiver.look(DOWN, after=1) == ["home is down"]
    receiver.failures = ["ConnectTimeout"]
    assert receiver.look(UP) == ["home is up again", "home is up again"]
    assert receiver.look(UP, after=300) == ["home is up again"]
    assert [url for url, _, _ in receiver.calls] == [TOPIC, HOOK, TOPIC, TOPIC, HOOK, TOPIC]


def test_a_database_that_fails_ends_one_look_only(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(SentInMemory):
        def keys(self) -> set[str]:
            raise DatabaseError("The database failed.")

    receiver = Receiver(Failing(), after=0)
    assert receiver.look(DOWN) == []
    assert "notices cannot be sent: The database failed." in caplog.text


def test_what_holds_for_a_month_is_told_again(tmp_path: Any) -> None:
    clock = Clock()
    database = Database(f"sqlite:///{tmp_path}/store.db", setting="store.database")
    sent = SentInDatabase(database, clock)
    assert (sent.keys(), sent.add("a"), sent.add("a"), sent.keys()) == (set(), True, False, {"a"})
    clock.seconds += 31 * 24 * 3600
    assert (sent.add("b"), sent.keys()) == (True, {"b"})
    assert (sent.remove("b"), sent.remove("b")) == (True, False)


def test_a_webhook_gets_json_that_chat_programs_show_and_that_is_signed() -> None:
    receiver = Receiver(None, WebhookTarget(HOOK, SECRET), after=0)
    receiver.facts = Facts([DOWN])
    receiver.watch.look()
    [(url, content, headers)] = receiver.calls
    event = json.loads(content)
    assert (url, event) == (
        HOOK,
        {
            "id": event["id"],
            "object": "event",
            "type": "endpoint.down",
            "created_at": 1000,
            "text": "The endpoint home has not answered for 0 s: it cannot be reached.",
            "data": {"endpoint": "home", "error": "it cannot be reached"},
        },
    )
    assert headers == signed_headers(SECRET, event["id"], 1000, content)


def test_a_topic_gets_a_text_with_a_title_and_the_token() -> None:
    receiver = Receiver(None, NtfyTarget(TOPIC, "tk_secret"), after=0)
    receiver.look(WatchedEndpoint("Küche\n", is_up=False, reason="x"))
    assert receiver.calls[0][2] == {
        "Content-Type": "text/plain; charset=utf-8",
        "Title": "K%C3%BCche%0A is down",
        "Priority": "high",
        "Tags": "warning",
        "Authorization": "Bearer tk_secret",
    }
    assert "tk_secret" not in repr(receiver.options.targets)


def test_nothing_is_observed_that_the_settings_leave_out() -> None:
    facts = Facts([DOWN], {"horde": 1.0})
    assert list(observations(facts, NoticeLimits(endpoints=False))) == []
    [only] = observations(facts, NoticeLimits())
    assert (only.key, only.standing) == ("endpoint home", Standing.BAD)


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (300, "5 min"), (7200, "2 h"), (90, "90 s")]
)
def test_a_time_is_said_as_people_say_it(seconds: float, text: str) -> None:
    [only] = observations(Facts([DOWN]), NoticeLimits(after=seconds))
    assert f"for {text}:" in only.bad.text


def noticing(world: World, calls: list[Any], **settings: Any) -> World:
    def post(url: str, content: bytes, headers: Mapping[str, str]) -> str | None:
        calls.append((url, content.decode()))
        return None

    world.runtime = replace(world.runtime, post_webhook=post)
    return world.configure(notices={"ntfy": TOPIC, "after": 60, **settings})


def test_a_horde_that_cannot_be_reached_is_told(world: World) -> None:
    calls: list[Any] = []
    app = noticing(world, calls).app()
    world.employ(Scripted("Hello."))
    watch = composition_of(app).notices
    watch.look()
    world.cut_between(0, 100_000)
    for _ in range(10):
        world.clock.sleep(30)
        watch.look()
    assert [url for url, _ in calls] == [TOPIC]
    assert calls[0][1].startswith("The endpoint horde has not answered for 1 min: ")


def facts_of(*endpoints: Endpoint) -> list[WatchedEndpoint]:
    return list(endpoint_facts(Router(endpoints)))


def test_an_endpoint_is_watched_by_its_list_and_by_what_failed_lately() -> None:
    clock = Clock()
    home = Endpoint(Offering("home", "m"), CircuitBreaker(1, 60, clock))
    assert facts_of(home) == [UP]
    attempt = home.breaker.try_acquire()
    assert attempt is not None
    attempt.failed("it answered with status 500", None)
    assert facts_of(home) == [replace(DOWN, reason="it answered with status 500")]
    # Nobody has tried since, so that nothing is known.
    clock.seconds += 61
    assert facts_of(home) == [ASLEEP]


def test_a_machine_that_sleeps_is_not_down() -> None:
    upstream = Offering("home", "m")
    power = Power("home", (), lambda: False, run=inline, run_later=lambda *_: None)
    home = Endpoint(upstream, CircuitBreaker(1, 60, Clock()), power=power)
    assert facts_of(home) == [UP]
    power.unreachable()
    upstream.lists_fail = Unreachable("it cannot be reached")
    assert facts_of(home) == [ASLEEP]


def test_an_endpoint_that_the_horde_forbids_is_down() -> None:
    class Forbidden(Offering):
        def penalties(self) -> list[dict[str, Any]]:
            return [{"kinds": [], "message": "The address is in time-out until 12:00."}]

    [facts] = facts_of(Endpoint(Forbidden("home", "m"), CircuitBreaker(1, 60, Clock())))
    assert facts == replace(DOWN, reason="The address is in time-out until 12:00.")


def test_low_kudos_and_a_lost_favourite_are_told(world: World) -> None:
    calls: list[Any] = []
    noticing(world, calls, kudos_below=20_000, favourites=["test/modle"])
    app = world.configure(horde={"api_key": CLIENT_KEY}).app()
    world.employ(Scripted("Hello."))
    watch = composition_of(app).notices
    for _ in range(4):
        watch.look()
        world.clock.sleep(30)
    assert sorted(text for _, text in calls) == [
        "No endpoint has offered the model test/modle for 1 min. "
        "The nearest model that is there: test/model.",
        "The account at horde has 10000 kudos left, less than 20000.",
    ]


def test_a_reload_repeats_no_notice_where_nothing_is_stored(world: World) -> None:
    calls: list[Any] = []
    noticing(world, calls, kudos_below=20_000)
    world.configure(horde={"api_key": CLIENT_KEY}, store={"days": 0})
    app = world.app()
    composition_of(app).notices.look()
    reconfigure(app, world.configure(notices={"after": 90}).config())
    composition_of(app).notices.look()
    assert len(calls) == 1


def test_the_watch_starts_with_the_first_request_if_there_is_a_target(world: World) -> None:
    loops: list[Any] = []
    world.runtime = replace(world.runtime, run_loop=loops.append)
    world.http().get("/health/live")
    silent = len(loops)
    app = noticing(world, []).app()
    for _ in range(2):
        app.test_client().get("/health/live")
    assert len(loops) == 2 * silent + 1


def test_a_fault_of_one_look_does_not_end_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver()
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) == 3:
            raise ShuttingDown

    def fail() -> Facts:
        raise ZeroDivisionError

    receiver.options = replace(receiver.options, facts=fail)
    NoticeWatch(
        lambda: receiver.options,
        clock=receiver.clock,
        now=receiver.clock,
        sleep=sleep,
        run_loop=lambda loop: loop(),
    ).ensure_started()
    assert sleeps == [30.0, 30.0, 30.0]
    assert caplog.text.count("a look for notices failed") == 2


def test_a_model_is_gone_only_where_all_lists_are_known() -> None:
    one, two = Offering("one", "a/Big-8B"), Offering("two", "other")
    router = Router([Endpoint(upstream, CircuitBreaker()) for upstream in (one, two)])
    assert [router.is_gone(name) for name in ("Big-8B", "auto", "Big-9B")] == [False, False, True]
    assert router.nearest("Big-9B") == ["a/Big-8B"]
    two.lists_fail = DatabaseErrorOfList()
    assert [router.is_gone(name) for name in ("Big-8B", "Big-9B")] == [False, None]


class DatabaseErrorOfList(ShuttingDown):
    """Any ProxyError."""


def test_check_sends_a_notice_to_each_target() -> None:
    calls: list[Any] = []
    world = noticing(World(), calls, webhook=HOOK)
    findings = list(check_notices(world.config(), world.runtime))
    assert [(finding.what, finding.ok) for finding in findings] == [
        ("notices: webhook took a test notice", True),
        ("notices: ntfy took a test notice", True),
    ]
    assert [url for url, _ in calls] == [HOOK, TOPIC]


def test_check_says_what_is_wrong_with_notices() -> None:
    [nowhere] = check_notices(load(environ={}, flags={}))
    assert nowhere.fix == "set notices.ntfy or notices.webhook"
    lost = {"ntfy": TOPIC, "ntfy_token_file": "/nowhere/token"}
    [unreadable] = check_notices(load(environ={}, flags={"notices": lost}))
    assert unreadable.what == (
        "notices: notices.ntfy_token_file cannot be read: No such file or directory"
    )


@responses.activate
def test_check_names_the_answer_of_a_target_that_refuses() -> None:
    responses.post(TOPIC, status=403)
    settings = load(environ={}, flags={"notices": {"ntfy": TOPIC, "private": True}})
    [finding] = check_notices(settings)
    assert finding.what == "notices: ntfy did not take a test notice: it answered 403"
    assert not finding.ok


def test_notices_go_through_the_http_proxy_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[tuple[str | None, Any]] = []

    class Capturing(requests.adapters.BaseAdapter):
        def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override]
            sent.append((request.url, dict(options["proxies"])))
            raise requests.ConnectionError

        def close(self) -> None:
            pass

    monkeypatch.setattr("horde_proxy.upstreams.webhook_post.PublicAdapter", Capturing)
    proxy = "http://proxy.invalid:3128"
    flags = {
        "notices": {"ntfy": TOPIC, "webhook": "http://192.168.1.2/hook"},
        "server": {"proxy_url": proxy},
    }
    findings = list(check_notices(load(environ={}, flags=flags)))
    assert [finding.ok for finding in findings] == [False, False]
    assert sent == [("http://192.168.1.2/hook", {}), (TOPIC, {"http": proxy, "https": proxy})]


@pytest.mark.parametrize(
    "settings",
    [
        {"ntfy": "ntfy.sh/topic"},
        {"webhook": HOOK, "secret": "short"},
        {"webhook": HOOK, "secret": SECRET, "secret_file": "x"},
        {"ntfy": TOPIC, "ntfy_token": "a\nb"},
        {"kudos_below": 0},
        {"after": 0},
    ],
)
def test_wrong_settings_stop_the_start(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="notices"):
        load(environ={}, flags={"notices": settings})
