"""`horde-proxy check --url`: what stands before a running proxy, and what it does to requests.

Each check yields findings; what they send is answered without an endpoint, and costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from horde_proxy.commands.doctor import HOW_TO_TRUST
from horde_proxy.commands.findings import Finding
from horde_proxy.commands.reverse_proxies import compare, mend, program_of
from horde_proxy.config.values import is_loopback
from horde_proxy.errors import RequestRefused

PENALTY_FIX = (
    "nothing is submitted there before that; if it is a mistake, write to the horde's moderators"
)
_PROBE_SECONDS = 2.0
_PROBE_INTERVAL = 0.5
"""GET /health/probe sends an event each so many seconds, for so long."""
_SILENCE = 70.0
"""Seconds: longer than nginx' proxy_read_timeout is by default (60)."""
_BODY = 20 * 1024 * 1024
"""Bytes: larger than nginx' client_max_body_size is by default (1 MB), as with images."""
_TIMEOUT = (5.0, 30.0)


def check_url(
    url: str,
    key: str | None,
    session: requests.Session,
    silence: bool = True,
    say: Callable[[str], object] = lambda text: None,
) -> Iterator[Finding]:
    """A running proxy through what stands before it: routes, names, body, stream, time-outs.

    `say` is called before a check that takes long.
    """
    base = url.rstrip("/").removesuffix("/v1")
    session.headers["Authorization"] = f"Bearer {key or 'none'}"
    try:
        response = session.get(f"{base}/v1/models", timeout=_TIMEOUT)
    except requests.RequestException as exc:
        yield _unreachable(base, exc)
        return
    if response.status_code == 401:
        # Without a valid key, none of the other checks would reach the proxy's views.
        yield Finding(
            "url: the key is refused", "give one of its keys with --key, or in OPENAI_API_KEY"
        )
        return
    if RequestRefused.code in response.text:
        yield Finding(f"url: the proxy refuses clients of {base}", _reason(response))
        return
    if not response.ok or "data" not in response.text:
        yield Finding(
            f"url: /v1/models gives {response.status_code}",
            "does proxy_pass point at the proxy, without a path?",
        )
        return
    yield Finding(f"url: {base}/v1/models answers")
    yield from _settings_in_use(base, session)
    program = program_of(response.headers)
    yield from _name_with_slash(base, response, session)
    yield _large_body(base, session, program)
    yield _stream(base, session, program)
    if silence:
        say(f"Waiting through {_SILENCE:.0f} s of silence (--quick leaves this out) ...")
        yield _silence(base, session, program)


def _unreachable(base: str, exc: requests.RequestException) -> Finding:
    """Why nothing answers at an address."""
    fix = "is the proxy running, and is this its address?"
    if isinstance(exc, requests.exceptions.SSLError):
        # A good certificate for another name is refused as well: https://127.0.0.1.
        fix = f"give the name that its certificate is for, or trust its authority: {HOW_TO_TRUST}"
    return Finding(f"url: {base} cannot be reached ({type(exc).__name__})", fix)


def _reason(response: requests.Response) -> str:
    """The message of an error."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "set access.mode"


def _settings_in_use(base: str, session: requests.Session) -> Iterator[Finding]:
    """Whether the proxy goes on with older settings than those of its file, and who may use it."""
    try:
        document = session.get(f"{base}/v1/endpoints", timeout=_TIMEOUT).json()
        problem, is_local_only = document["settings"]["problem"], document["settings"]["local_only"]
    except (requests.RequestException, ValueError, KeyError, TypeError):
        # An older version, or what stands before the proxy: the other checks judge that.
        return
    if problem:
        yield Finding("settings: the newest ones are not in use", str(problem))
    # What stands before it has left out all signs of where its clients are.
    if is_local_only and not is_loopback(urlsplit(base).hostname or ""):
        yield Finding(
            f"access: the proxy takes everybody at {base} for a client of its own machine",
            f'set access.mode, to "keys" for example, and send X-Forwarded-For; {compare()}',
        )
    yield from _penalties_told(document.get("data"))


def _penalties_told(endpoints: Any) -> Iterator[Finding]:
    """What hordes have forbidden the running proxy, which may keep its state in another folder."""
    for endpoint in endpoints if isinstance(endpoints, list) else ():
        penalties = endpoint.get("penalties") if isinstance(endpoint, dict) else None
        for penalty in penalties if isinstance(penalties, list) else ():
            if isinstance(penalty, dict):
                what = f"penalty at {endpoint.get('name')}: {penalty.get('message')}"
                yield Finding(what, PENALTY_FIX)


def _name_with_slash(
    base: str, models: requests.Response, session: requests.Session
) -> Iterator[Finding]:
    # The full id is understood where a short one is listed, too.
    ids = [str(model.get("full_id") or model["id"]) for model in models.json()["data"]]
    name = next((model_id for model_id in ids if "/" in model_id), None)
    if name is not None:
        path = quote(name, safe="")
        ok = session.get(f"{base}/v1/models/{path}", timeout=_TIMEOUT).ok
        yield Finding(
            "names: %2F is passed on" if ok else "names: %2F is not passed on",
            "" if ok else mend("names", program_of(models.headers)),
        )


def _large_body(base: str, session: requests.Session, program: str | None) -> Finding:
    """20 MB that are not JSON: our own status 400 means that they came through."""
    try:
        response = session.post(f"{base}/v1/chat/completions", data=b"x" * _BODY, timeout=_TIMEOUT)
    except requests.RequestException as exc:
        return Finding(
            f"body: 20 MB break the connection ({type(exc).__name__})",
            mend("body", program),
        )
    ok = response.status_code == 400
    return Finding(
        f"body: 20 MB give status {response.status_code}" + (", as expected" if ok else ""),
        "" if ok else mend("body", program),
    )


def _stream(base: str, session: requests.Session, program: str | None) -> Finding:
    """The probe's events must come one by one; buffered, they come all at once at the end."""
    arrived = _events(base, session, _PROBE_SECONDS, _PROBE_INTERVAL)
    if isinstance(arrived, str):
        return Finding(f"stream: breaks off ({arrived})", compare(program))
    if arrived[-1] - arrived[0] < _PROBE_SECONDS / 2:
        return Finding(
            "stream: is buffered, everything comes at the end",
            mend("stream", program),
        )
    return Finding(f"stream: first event after {arrived[0]:.2f} s, each as it is sent")


def _silence(base: str, session: requests.Session, program: str | None) -> Finding:
    arrived = _events(base, session, _SILENCE, _SILENCE)
    if isinstance(arrived, str) or arrived[-1] < _SILENCE - 1:
        return Finding(
            f"time-outs: {_SILENCE:.0f} s of silence are cut off",
            mend("time-outs", program),
        )
    return Finding(f"time-outs: {_SILENCE:.0f} s of silence are not cut off")


def _events(
    base: str, session: requests.Session, seconds: float, interval: float
) -> list[float] | str:
    """The seconds after which each event of the probe came, or why it failed."""
    begin, arrived = time.monotonic(), []
    # The read time-out is longer than the silence: what cuts it off must not be this client.
    params = {"seconds": str(seconds), "interval": str(interval)}
    try:
        with session.get(
            f"{base}/health/probe", params=params, stream=True, timeout=(5.0, seconds + 30)
        ) as response:
            response.raise_for_status()
            for line in response.iter_lines(chunk_size=1):
                if line:
                    arrived.append(time.monotonic() - begin)
    except requests.RequestException as exc:
        return type(exc).__name__
    return arrived or "no event"
