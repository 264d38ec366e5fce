"""What one proxied call costs, counted instead of timed: what it does once, and how many calls."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import responses
from flask import Flask, url_for
from werkzeug.datastructures import Headers
from werkzeug.routing import Rule

import horde_proxy
from horde_proxy import create_app
from horde_proxy.api import auth
from horde_proxy.app.lean_flask import LeanFlask
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from horde_proxy.store.generations import GenerationStore

SERVER, KEY = "http://server.invalid:1", "key-of-ann-0123456789"
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
}
MOST_CALLS = 580
"""Calls of functions of ours for one proxied call here, which has 545. A hundred more take about
15 microseconds: raise this only for what is worth that to every client."""
PACKAGE = str(Path(horde_proxy.__file__).parent)


@pytest.fixture
def later() -> list[Callable[[], None]]:
    return []


@pytest.fixture
def app(later: list[Callable[[], None]], tmp_path: Path) -> Iterator[Flask]:
    settings = {
        "access": {"mode": "keys", "keys": {"ann": KEY}},
        "endpoints": [{"url": SERVER, "name": "server", "type": "openai"}],
        "server": {"loop_limit": 0},
        "stats": {"hydrate": False},
        "store": {"database": f"sqlite:///{tmp_path}/store.db"},
    }
    runtime = Runtime(run=inline, run_later=lambda seconds, call: later.append(call))
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(f"{SERVER}/v1/models", json={"data": [{"id": "m"}]})
        mock.post(f"{SERVER}/v1/chat/completions", json=COMPLETION)
        yield create_app(load(environ={}, flags=settings), runtime)


def chat(app: Flask) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    login = {"Authorization": f"Bearer {KEY}"}
    answer = app.test_client().post("/v1/chat/completions", json=body, headers=login)
    assert answer.get_json()["id"] == "chatcmpl-1"
    answer.close()


def calls_of_ours(run: Callable[[], None]) -> int:
    count = 0

    def note(frame: FrameType, event: str, _: Any) -> None:
        nonlocal count
        # A generator that goes on is a call as well, which costs about as much.
        count += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


def test_the_key_is_looked_for_in_the_headers_once(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looked = auth._sent_key, list[Headers]()

    def note(headers: Headers) -> str | None:
        looked.append(headers)
        return look(headers)

    monkeypatch.setattr(auth, "_sent_key", note)
    chat(app)
    assert len(looked) == 1


def test_records_are_written_together_and_not_by_the_requests(
    app: Flask, later: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(GenerationStore, "save", lambda store, records: saved.append(len(records)))
    for _ in range(3):
        chat(app)
    assert saved == []
    [write] = later
    write()
    assert saved == [3]


def test_a_call_passes_no_more_functions_than_it_needs(app: Flask) -> None:
    # The first calls learn the models, and make what is kept.
    for _ in range(3):
        chat(app)
    assert calls_of_ours(lambda: chat(app)) <= MOST_CALLS


def test_no_view_is_a_coroutine_because_none_is_looked_at(app: Flask) -> None:
    hooks: list[Any] = [
        hook
        for by_blueprint in (app.before_request_funcs, app.after_request_funcs)
        for group in by_blueprint.values()
        for hook in group
    ]
    functions = [*app.view_functions.values(), *hooks]
    assert not any(map(inspect.iscoroutinefunction, functions))


def test_a_start_compiles_nothing_that_builds_urls(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    compile_now = Rule._compile_builder

    def note(rule: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        compiled.append(rule.rule)
        return compile_now(rule, append_unknown)

    monkeypatch.setattr(Rule, "_compile_builder", note)
    assert all(type(rule) is LeanFlask.url_rule_class for rule in app.url_map.iter_rules())
    # No app has this route, so conftest.py has not compiled it for another one.
    lean = LeanFlask("lean", static_folder=None)
    lean.add_url_rule("/built/lately/<path:name>", "lately", lambda name: name)
    assert compiled == []
    with lean.test_request_context():
        for _ in range(2):
            assert url_for("lately", name="a/b c", x="1") == "/built/lately/a/b%20c?x=1"
    assert compiled == ["/built/lately/<path:name>"]
