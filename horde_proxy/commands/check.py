"""`horde-proxy check`: what is wrong with an installation, and how to fix it.

Each check yields findings. None changes anything; what they ask of the horde costs no kudos.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from itertools import chain
from platform import python_version
from typing import Any

import click
import requests

from horde_proxy.aihorde.rest import ANONYMOUS_KEY, api_url
from horde_proxy.api.horde import NOT_AWAITED
from horde_proxy.app.assembly import AppServices, Assembly, build, place_of, power_of, proxy_for
from horde_proxy.app.horde import open_penalties
from horde_proxy.app.notices import notice_post, notice_targets
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.commands.check_url import PENALTY_FIX, check_url
from horde_proxy.commands.console import echo, say
from horde_proxy.commands.doctor import (
    HOW_TO_TRUST,
    check_authorities,
    check_certificate,
    check_databases,
    check_disk,
)
from horde_proxy.commands.findings import Finding
from horde_proxy.commands.horde_database import has_file, open_horde
from horde_proxy.commands.options import config_option, load_settings
from horde_proxy.commands.paused_endpoints import check_pauses
from horde_proxy.commands.reverse_proxies import compare
from horde_proxy.commands.running_service import use_service
from horde_proxy.config import Config, ConfigError, EndpointSettings, exposures, load_with_origins
from horde_proxy.errors import InvalidApiKey, ProxyError
from horde_proxy.notices.conditions import Notice
from horde_proxy.printable import without_login
from horde_proxy.protocol.models import is_available
from horde_proxy.shutdown import Shutdown
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.shared_keys import SharedKey, is_shared_key, read_shared_key
from horde_proxy.upstreams.horde.webhook import PATH
from horde_proxy.upstreams.kinds import KINDS
from horde_proxy.upstreams.openai.sending import CERTIFICATE_NOT_TRUSTED
from horde_proxy.upstreams.power import Power
from horde_proxy.upstreams.sessions import new_session, with_proxy
from horde_proxy.version import VERSION

_MOST_CLOCK_DIFFERENCE = 60.0
"""Seconds; beyond, certificates and the expiry of jobs are in doubt."""
_TIMEOUT = (5.0, 30.0)
_TEST_NOTICE = "horde-proxy check --notices sends this: notices arrive."
_NEVER_SEEN = ", and its models are not known here: start it once, and run this again"


@click.command()
@config_option
@click.option("--url", metavar="URL", help="Also check a running proxy through this address.")
@click.option("--key", envvar="OPENAI_API_KEY", help="The key to use there [OPENAI_API_KEY].")
@click.option("--quick", is_flag=True, help="Leave out the minute of silence.")
@click.option("--notices", is_flag=True, help="Also send a notice to each target of [notices].")
def check(path: str | None, url: str | None, key: str | None, quick: bool, notices: bool) -> None:
    """Say what is wrong with this installation, and how to fix it."""
    use_service(say)
    settings = load_settings(path)
    findings = chain(
        check_settings(settings),
        check_overrides(path),
        check_disk(),
        check_databases(settings),
        (check_authorities(os.environ),),
        check_horde(settings, _session_for(settings)),
        check_endpoints(settings),
        check_penalties(settings, Runtime()),
        check_webhooks(settings, new_session()),
        check_notices(settings) if notices else (),
        check_certificate(url) if url else (),
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
    yield Finding(f"version: horde-proxy {VERSION}, Python {python_version()}")
    names = f" ({', '.join(settings.access.keys)})" if settings.access.keys else ""
    yield Finding(f"configuration: listens on {settings.server.bind}, access {mode}{names}")
    for exposure in exposures(settings):
        yield Finding(f"files: {exposure.what}", exposure.fix)


def check_overrides(path: str | None) -> Iterator[Finding]:
    """What one source of the settings says in vain, because another one goes before it."""
    for origin in load_with_origins(path)[1]:
        for line in origin.override_lines():
            yield Finding(f"settings: {line}")


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


def check_endpoints(settings: Config, runtime: Runtime | None = None) -> Iterator[Finding]:
    """Whether each endpoint takes its options and lists its models, and its hook can be run.

    The horde of [horde] is checked by check_horde. No machine is woken.
    """
    # Inline, so that a failure is known when models() returns, and not in the background.
    runtime = runtime or Runtime(run=inline)
    services = Assembly(runtime, Shutdown()).services(settings)
    yield from check_pauses(settings)
    for endpoint in settings.endpoints:
        # A horde without a URL is the one of [horde], and has been checked.
        if endpoint.url is None and KINDS[endpoint.type].is_horde:
            continue
        yield from _idle_hook(endpoint)
        yield _endpoint(endpoint, services, power_of(endpoint, runtime))


def _endpoint(endpoint: EndpointSettings, services: AppServices, power: Power | None) -> Finding:
    """Whether one endpoint takes its options and lists its models. `power` is its machine."""
    name = f"endpoint {endpoint.label()}"
    is_asleep = power is not None and not power.check()
    try:
        upstream = build(endpoint, replace(services, power=power))
        models = upstream.models()
    except ConfigError as exc:
        return Finding(f"{name}: {exc}", "correct the configuration")
    except ProxyError as exc:
        if is_asleep:
            return Finding(f"{name}: asleep{_NEVER_SEEN}")
        fix = "look at its url and api_key, and whether it runs"
        if CERTIFICATE_NOT_TRUSTED in str(exc):
            fix = f"trust the authority of its certificate: {HOW_TO_TRUST}; then restart the proxy"
        return Finding(f"{name}: {exc}", fix)
    listed = f"{len(models)} models"
    unusable = sum(not is_available(model) for model in models)
    if unusable:
        listed += f", {unusable} of them without a worker that may answer"
    if is_asleep:
        listed = f"asleep, {len(models)} models when it was awake"
    elif upstream.offers_any:
        listed = "lists no models, so any model may be requested"
    return Finding(f"{name} ({place_of(endpoint, services.settings)}): {listed}")


def check_penalties(settings: Config, runtime: Runtime) -> Iterator[Finding]:
    """What hordes have forbidden this proxy for a time, as the running proxy remembers it."""
    services = Assembly(runtime, Shutdown()).services(settings)
    urls = [settings.horde.url] if _uses_main_horde(settings) else []
    urls += [
        endpoint.url
        for endpoint in settings.endpoints
        if endpoint.url and KINDS[endpoint.type].is_horde
    ]
    for base in dict.fromkeys(map(api_url, urls)):
        for penalty in open_penalties(base, services).current():
            yield Finding(
                f"penalty at {without_login(base)}: {penalty.message()}",
                PENALTY_FIX,
            )


def _idle_hook(endpoint: EndpointSettings) -> Iterator[Finding]:
    """Whether the program of its idle hook is there."""
    hook = endpoint.idle_hook
    if isinstance(hook, list) and shutil.which(hook[0]) is None:
        yield Finding(
            f"endpoint {endpoint.label()}: its idle_hook runs {hook[0]}, which is not installed",
            "install the program, or write its whole path",
        )


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
    if shared:
        return _shared_key(what, shared, now)
    suspicion = _suspicion(user)
    fix = "ask the horde's moderators why: its requests come after all others" if suspicion else ""
    return Finding(what + suspicion, fix)


def _suspicion(user: Mapping[str, Any]) -> str:
    """What the horde holds against an account, as far as it tells; "" for nothing."""
    # Only moderators see the number (contract: GET /users/{id}); others get null.
    count = user.get("suspicious")
    is_suspicious = isinstance(count, int) and count > 0
    flagged = ", flagged by its moderators" if user.get("flagged") is True else ""
    return flagged + (f", suspicious {count} times" if is_suspicious else "")


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
        f"pass POST {PATH} on to the proxy, unchanged and without a login; {compare()}",
    )


def check_notices(settings: Config, runtime: Runtime | None = None) -> Iterator[Finding]:
    """Whether a notice arrives at each target of [notices]: it sends one."""
    runtime, test = runtime or Runtime(), Notice("test", "A test", _TEST_NOTICE, is_bad=False)
    if not settings.notices.has_target():
        yield Finding("notices: they go nowhere", "set notices.ntfy or notices.webhook")
        return
    try:
        targets = notice_targets(settings.notices)
    except ConfigError as exc:
        yield Finding(f"notices: {exc}", "correct the configuration")
        return
    post = notice_post(settings, runtime)
    for target in targets:
        failure = target.send(test, runtime.now(), post)
        if failure is None:
            yield Finding(f"notices: {target.name} took a test notice")
        else:
            yield Finding(
                f"notices: {target.name} did not take a test notice: {failure}",
                f"look at notices.{target.name}, its token or secret, and notices.private",
            )
