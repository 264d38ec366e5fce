"""`horde-proxy check`: what is wrong with an installation, and how to fix it.

Each check yields findings. None changes anything; what they ask of the horde costs no kudos.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import chain
from urllib.parse import quote

import click
import requests

from horde_proxy.aihorde.rest import ANONYMOUS_KEY, api_url
from horde_proxy.api.horde import NOT_AWAITED
from horde_proxy.app.assembly import Assembly, build, proxy_for
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.commands.console import echo, say
from horde_proxy.commands.horde_database import has_file, open_horde
from horde_proxy.commands.options import config_option, load_settings
from horde_proxy.config import Config, ConfigError, exposures
from horde_proxy.errors import InvalidApiKey, ProxyError
from horde_proxy.printable import without_login
from horde_proxy.protocol.models import is_available
from horde_proxy.shutdown import Shutdown
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.shared_keys import SharedKey, is_shared_key, read_shared_key
from horde_proxy.upstreams.horde.webhook import PATH
from horde_proxy.upstreams.kinds import KINDS
from horde_proxy.upstreams.sessions import new_session, with_proxy

_MOST_CLOCK_DIFFERENCE = 60.0
"""Seconds; beyond, certificates and the expiry of jobs are in doubt."""
_PROBE_SECONDS = 2.0
_PROBE_INTERVAL = 0.5
"""GET /health/probe sends an event each so many seconds, for so long."""
_SILENCE = 70.0
"""Seconds: longer than nginx' proxy_read_timeout is by default (60)."""
_BODY = 20 * 1024 * 1024
"""Bytes: larger than nginx' client_max_body_size is by default (1 MB), as with images."""
_TIMEOUT = (5.0, 30.0)
_NGINX = "compare your server block with systemd/nginx.conf"


@dataclass(frozen=True)
class Finding:
    """One thing that was checked. `fix` says what to do, and is empty where all is well."""

    what: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        return not self.fix


@click.command()
@config_option
@click.option("--url", metavar="URL", help="Also check a running proxy through this address.")
@click.option("--key", envvar="OPENAI_API_KEY", help="The key to use there [OPENAI_API_KEY].")
@click.option("--quick", is_flag=True, help="Leave out the minute of silence.")
def check(path: str | None, url: str | None, key: str | None, quick: bool) -> None:
    """Say what is wrong with this installation, and how to fix it."""
    settings = load_settings(path)
    findings = chain(
        check_settings(settings),
        check_horde(settings, _session_for(settings)),
        check_endpoints(settings),
        check_webhooks(settings, new_session()),
        check_url(url, key, new_session(), not quick, say) if url else (),
    )
    is_failed = False
    for finding in findings:
        is_failed = is_failed or not finding.ok
        echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what}")
        if finding.fix:
            echo(f"      fix: {finding.fix}")
    if is_failed:
        raise SystemExit(1)


def _session_for(settings: Config) -> requests.Session:
    """A session for calls of the main horde."""
    return with_proxy(new_session(), proxy_for(settings.horde.url, settings))


def check_settings(settings: Config) -> Iterator[Finding]:
    """Where the proxy listens, who may use it, and who else may change or read its files."""
    mode = settings.access.mode or "open, to this machine only"
    names = f" ({', '.join(settings.access.keys)})" if settings.access.keys else ""
    yield Finding(f"configuration: listens on {settings.server.bind}, access {mode}{names}")
    for exposure in exposures(settings):
        yield Finding(f"files: {exposure.what}", exposure.fix)


def check_horde(
    settings: Config, session: requests.Session, now: Callable[[], float] = time.time
) -> Iterator[Finding]:
    """Whether it is reachable, the clocks agree, the key is valid and models have workers.

    The first failure that makes the rest impossible ends the checks.
    """
    if settings.private_horde.enabled:
        yield _private_horde(settings)
    if not _uses_main_horde(settings):
        return
    url, shown = settings.horde.url, without_login(settings.horde.url)
    try:
        response = session.get(f"{api_url(url)}/status/heartbeat", timeout=_TIMEOUT)
        response.raise_for_status()
    except requests.RequestException as exc:
        yield Finding(
            f"horde: {shown} cannot be reached ({type(exc).__name__})",
            "look at the network, DNS and horde.url",
        )
        return
    yield Finding(f"horde: {shown} answers in {response.elapsed.total_seconds():.2f} s")
    yield from _clock(response, now())
    client = HordeClient(url, session, contact=settings.horde.contact, timeout=_TIMEOUT)
    yield _key(client, settings.horde.api_key, now())
    yield _models(client)


def _private_horde(settings: Config) -> Finding:
    """Whether the private horde's database can be read, and what is in it."""
    what = "horde: the private one, in the proxy's own process"
    if settings.private_horde.database_url() is None:
        return Finding(f"{what}, in memory: a restart loses everything")
    if not has_file(settings):
        path = settings.private_horde.database_file()
        return Finding(f"{what}; the first start makes its database {path}")
    try:
        with open_horde(settings) as horde:
            count, workers = len(horde.administration.users()), len(horde.fleet.workers())
    except click.ClickException as exc:
        return Finding(f"{what}: {exc.message}", "correct private_horde.database, or its server")
    return Finding(f"{what}: {count} accounts, {workers} workers online")


def _uses_main_horde(settings: Config) -> bool:
    """Whether the horde of [horde] is an endpoint."""
    if not settings.endpoints:
        return not settings.private_horde.enabled
    return any(
        KINDS[endpoint.type].is_horde and endpoint.url is None for endpoint in settings.endpoints
    )


def check_endpoints(settings: Config) -> Iterator[Finding]:
    """Whether each endpoint takes its options and lists its models.

    The horde of [horde] is checked by check_horde.
    """
    # Inline, so that a failure is known when models() returns, and not in the background.
    services = Assembly(Runtime(run=inline), Shutdown()).services(settings)
    for endpoint in settings.endpoints:
        # A horde without a URL is the one of [horde], and has been checked.
        if endpoint.url is None and KINDS[endpoint.type].is_horde:
            continue
        try:
            upstream = build(endpoint, services)
            models = upstream.models()
        except ConfigError as exc:
            yield Finding(f"endpoint {endpoint.label()}: {exc}", "correct the configuration")
        except ProxyError as exc:
            yield Finding(
                f"endpoint {endpoint.label()}: {exc}",
                "look at its url and api_key, and whether it runs",
            )
        else:
            listed = f"{len(models)} models"
            unusable = sum(not is_available(model) for model in models)
            if unusable:
                listed += f", {unusable} of them without a worker that may answer"
            if upstream.offers_any:
                listed = "lists no models, so any model may be requested"
            yield Finding(f"endpoint {endpoint.label()}: {listed}")


def _clock(response: requests.Response, now: float) -> Iterator[Finding]:
    try:
        # RFC 9110 has servers send the time of each answer, to the second.
        theirs = parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (KeyError, ValueError):
        return
    off = abs(theirs - now)
    fix = "set the clock: timedatectl set-ntp true" if off > _MOST_CLOCK_DIFFERENCE else ""
    yield Finding(f"clock: {off:.0f} s from the horde's", fix)


def _key(client: HordeClient, api_key: str, now: float) -> Finding:
    if api_key == ANONYMOUS_KEY:
        return Finding("key: anonymous, last in the queue (AI_HORDE_API_KEY sets your own)")
    try:
        user = client.find_user(api_key)
        shared = read_shared_key(client.shared_key(api_key)) if is_shared_key(api_key) else None
    except InvalidApiKey:
        return Finding("key: the horde does not know it", "set AI_HORDE_API_KEY to a valid key")
    except ProxyError as exc:
        return Finding(f"key: could not be looked up ({exc})", "try again in a minute")
    what = f"key: {user.get('username')} with {user.get('kudos')} kudos"
    return _shared_key(what, shared, now) if shared else Finding(what)


def _shared_key(what: str, shared: SharedKey, now: float) -> Finding:
    """The same for a shared key: what is left of it, its limits and its end."""
    left = "unlimited" if shared.kudos is None else f"{shared.kudos:.0f} left"
    what += f"; of the shared key {left}"
    if shared.max_text_tokens is not None:
        what += f", at most {shared.max_text_tokens} tokens a request"
    if shared.requests_left is not None:
        what += f", {shared.requests_left} requests left"
    if shared.end is not None:
        what += f", until {shared.end}"
    is_over = 0 in (shared.kudos, shared.requests_left)
    is_over = is_over or (shared.expires is not None and shared.expires <= now)
    return Finding(what, "ask the owner of the shared key to renew it" if is_over else "")


def _models(client: HordeClient) -> Finding:
    try:
        count = len(client.models())
    except ProxyError as exc:
        return Finding(f"models: cannot be listed ({exc})", "try again in a minute")
    return Finding(
        f"models: {count} with workers", "" if count else "wait for workers to come online"
    )


def check_webhooks(settings: Config, session: requests.Session) -> Iterator[Finding]:
    """Whether a result that is pushed to each webhook_url arrives at the running proxy."""
    endpoints = [endpoint.webhook_url for endpoint in settings.endpoints]
    for url in dict.fromkeys(filter(None, [settings.horde.webhook_url, *endpoints])):
        yield _delivery(url.rstrip("/"), session)


def _delivery(url: str, session: requests.Session) -> Finding:
    """A delivery for no request: only the proxy itself refuses it in its own words."""
    # A path like that of a real one. The horde follows no redirects.
    path = f"{url}{PATH}{secrets.token_urlsafe(24)}"
    body = {"id": "check", "request": "check"}
    try:
        response = session.post(path, json=body, timeout=_TIMEOUT, allow_redirects=False)
    except requests.RequestException as exc:
        return Finding(
            f"webhook: {url} cannot be reached ({type(exc).__name__})",
            "is the proxy running, and does the name lead to it, with a valid certificate?",
        )
    if response.status_code == 404 and NOT_AWAITED in response.text:
        return Finding(f"webhook: a result that is pushed to {url} arrives at the proxy")
    return Finding(
        f"webhook: {url} gives {response.status_code}, and not the proxy's answer",
        f"pass POST {PATH} on to the proxy, unchanged and without a login; {_NGINX}",
    )


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
        yield Finding(
            f"url: {base} cannot be reached ({type(exc).__name__})",
            "is the proxy running, and is this its address?",
        )
        return
    if response.status_code == 401:
        # Without a valid key, none of the other checks would reach the proxy's views.
        yield Finding("url: the key is refused", "give one of [access.keys] with --key")
        return
    if not response.ok or "data" not in response.text:
        yield Finding(
            f"url: /v1/models gives {response.status_code}",
            "does proxy_pass point at the proxy, without a path?",
        )
        return
    yield Finding(f"url: {base}/v1/models answers")
    yield from _reload_problem(base, session)
    yield from _name_with_slash(base, response, session)
    yield _large_body(base, session)
    yield _stream(base, session)
    if silence:
        say(f"Waiting through {_SILENCE:.0f} s of silence (--quick leaves this out) ...")
        yield _silence(base, session)


def _reload_problem(base: str, session: requests.Session) -> Iterator[Finding]:
    """Why the proxy goes on with older settings than those of its file, if it does."""
    try:
        document = session.get(f"{base}/v1/endpoints", timeout=_TIMEOUT).json()
        problem = document["settings"]["problem"]
    except (requests.RequestException, ValueError, KeyError, TypeError):
        # An older version, or what stands before the proxy: the other checks judge that.
        return
    if problem:
        yield Finding("settings: the newest ones are not in use", str(problem))


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
            "" if ok else f"proxy_pass without a path; {_NGINX}",
        )


def _large_body(base: str, session: requests.Session) -> Finding:
    """20 MB that are not JSON: our own status 400 means that they came through."""
    try:
        response = session.post(f"{base}/v1/chat/completions", data=b"x" * _BODY, timeout=_TIMEOUT)
    except requests.RequestException as exc:
        return Finding(
            f"body: 20 MB break the connection ({type(exc).__name__})",
            f"client_max_body_size 512m; {_NGINX}",
        )
    ok = response.status_code == 400
    return Finding(
        f"body: 20 MB give status {response.status_code}" + (", as expected" if ok else ""),
        "" if ok else f"client_max_body_size 512m; {_NGINX}",
    )


def _stream(base: str, session: requests.Session) -> Finding:
    """The probe's events must come one by one; buffered, they come all at once at the end."""
    arrived = _events(base, session, _PROBE_SECONDS, _PROBE_INTERVAL)
    if isinstance(arrived, str):
        return Finding(f"stream: breaks off ({arrived})", _NGINX)
    if arrived[-1] - arrived[0] < _PROBE_SECONDS / 2:
        return Finding(
            "stream: is buffered, everything comes at the end",
            f"proxy_buffering off; proxy_http_version 1.1; {_NGINX}",
        )
    return Finding(f"stream: first event after {arrived[0]:.2f} s, each as it is sent")


def _silence(base: str, session: requests.Session) -> Finding:
    arrived = _events(base, session, _SILENCE, _SILENCE)
    if isinstance(arrived, str) or arrived[-1] < _SILENCE - 1:
        return Finding(
            f"time-outs: {_SILENCE:.0f} s of silence are cut off",
            f"proxy_read_timeout 900s; {_NGINX}",
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
