"""The section of the endpoints: how each fares; adding, testing, pausing and removing one.

An endpoint is added to the settings' file after its server has answered. A pause is kept in the
database, so that it needs no change of settings (router.pauses).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from horde_proxy.api.context import AppContext
from horde_proxy.api.settings_access import EditedSettings
from horde_proxy.errors import ProxyError, SettingsRefused
from horde_proxy.places import PLACES
from horde_proxy.router import EVERYTHING
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.upstreams.kinds import KINDS
from horde_proxy.web import sent_forms
from horde_proxy.web.admin_section import (
    AdminAction,
    AdminSection,
    Change,
    ChangeRefused,
    NoSuchEntry,
    SectionFacts,
    change_settings,
    file_facts,
    settings_of,
)
from horde_proxy.web.list_pages import PAGE, page_of
from horde_proxy.web.sent_forms import Form
from horde_proxy.web.tables import clock_time

_PER_PAGE = 50
_TONES = {"up": "good", "down": "bad", "cooling": "bad"}
_NUMBERS = ("priority", "weight", "max_concurrent", "timeout")
_PRIVATE = "private"
"""The endpoint of the private horde, which is not in [[endpoints]]."""
_TEXTS = ("url", "type", "name", "api_key", "place", "prefix")


@dataclass(frozen=True)
class EndpointTrial:
    """What a server was found to be. `problem` is why it lists no models, "" where it does.

    `kind` is a `type` of the settings. `lists_none`: any model may be requested.
    """

    kind: str
    seconds: float
    models: Sequence[str] = ()
    problem: str = ""
    lists_none: bool = False


def _list(ctx: AppContext, arguments: Mapping[str, str]) -> SectionFacts:
    """The endpoints, with what they did today, and the form to add one."""
    wanted = arguments.get("q", "").strip()
    today = _today(ctx)
    states = [
        {**state, "tone": _TONES.get(state["state"], "warn"), "today": today.get(state["name"])}
        for state in ctx.router.states(EVERYTHING)
        if wanted.casefold() in state["name"].casefold()
    ]
    return {
        "page": page_of(states, arguments, _PER_PAGE),
        "q": wanted,
        "kinds": {name: kind.summary for name, kind in KINDS.items()},
        "places": PLACES,
        **file_facts(ctx),
    }


def _one(ctx: AppContext, arguments: Mapping[str, str]) -> SectionFacts:
    """One endpoint: its state, models and errors, and what may be done with it."""
    name = arguments.get("name", "")
    _endpoint(ctx, name)
    state = next(state for state in ctx.router.states(EVERYTHING) if state["name"] == name)
    return {
        "state": {**state, "tone": _TONES.get(state["state"], "warn")},
        "today": _today(ctx).get(name),
        "is_listed": any(entry.label() == name for entry in _entries(ctx)),
        "pauses_are_kept": ctx.admin.pauses.is_kept,
        **file_facts(ctx),
    }


def _today(ctx: AppContext) -> dict[str, dict[str, int]]:
    """Requests and failed ones of today (UTC), by endpoint."""
    day = clock_time(ctx.now(), "%Y-%m-%d")
    sums: dict[str, dict[str, int]] = {}
    for row in ctx.access.usage.usage(day, day):
        counts = sums.setdefault(row.endpoint, {"requests": 0, "errors": 0})
        counts["requests"] += row.requests
        counts["errors"] += row.errors
    return sums


def _endpoint(ctx: AppContext, name: str) -> Endpoint:
    """The endpoint of a name. Raises NoSuchEntry."""
    for endpoint in ctx.router.endpoints:
        if endpoint.name == name:
            return endpoint
    raise NoSuchEntry("There is no endpoint of this name.")


def _try(ctx: AppContext, form: Form) -> Change:
    """Look at a server without adding it."""
    return Change(facts={"trial": _trial(ctx, _values(form))})


def _add(ctx: AppContext, form: Form) -> Change:
    values = _values(form)
    trial = _trial(ctx, values)
    if trial.problem and "anyway" not in form:
        raise ChangeRefused(
            "It was not added, because it lists no models: "
            f"{trial.problem.rstrip('.')}. Correct it, or add it all the same."
        )

    def edit(file: EditedSettings) -> None:
        if not _entries(ctx) and all(
            endpoint.name != _PRIVATE for endpoint in ctx.router.endpoints
        ):
            # Without any entry, the public horde is the only endpoint. It is to stay.
            file.append("endpoints", {"type": "horde", "name": "horde"})
        file.append("endpoints", {**values, "type": trial.kind})

    note = change_settings(ctx, edit)
    name = values.get("name") or values.get("url") or trial.kind
    models = "not tested" if trial.problem else f"{len(trial.models)} models"
    return Change(
        f"added the endpoint {values.get('name') or 'without a name'} ({trial.kind}, {models})",
        note=f"{name} was added: {_in_words(trial)} {note}".strip(),
    )


def _test(ctx: AppContext, form: Form) -> Change:
    """Load the list of an endpoint's models now."""
    endpoint = _endpoint(ctx, sent_forms.text(form, "name"))
    begin = ctx.clock()
    models: Sequence[str] = ()
    failure: ProxyError | None = None
    endpoint.upstream.refresh()
    try:
        models = sorted(str(model["id"]) for model in endpoint.upstream.models())
        # A list that was loaded before stays while the server fails.
        failure = endpoint.upstream.error()
    except ProxyError as exc:
        failure = exc
    return Change(
        facts={
            "trial": EndpointTrial(
                endpoint.upstream.kind,
                ctx.clock() - begin,
                models,
                problem="" if failure is None else str(failure),
                lists_none=endpoint.upstream.offers_any,
            )
        }
    )


def _pause(ctx: AppContext, form: Form) -> Change:
    endpoint = _endpoint(ctx, sent_forms.text(form, "name"))
    ctx.admin.pauses.pause(endpoint.name, ctx.now())
    return Change(f"paused the endpoint {endpoint.name}")


def _resume(ctx: AppContext, form: Form) -> Change:
    endpoint = _endpoint(ctx, sent_forms.text(form, "name"))
    ctx.admin.pauses.resume(endpoint.name)
    return Change(f"resumed the endpoint {endpoint.name}")


def _remove(ctx: AppContext, form: Form) -> Change:
    name = _endpoint(ctx, sent_forms.text(form, "name")).name
    entries = _entries(ctx)
    number = next((index for index, entry in enumerate(entries) if entry.label() == name), None)
    if number is None:
        raise ChangeRefused("This endpoint is not in [[endpoints]] of the settings.")
    if len(ctx.router.endpoints) == 1:
        raise ChangeRefused("It is the only endpoint: add another one first.")
    url = entries[number].url
    is_only_one = [entry.url for entry in entries].count(url) == 1

    def edit(file: EditedSettings) -> None:
        # The file may have changed a second ago: the url finds the entry wherever it is.
        if url is not None and is_only_one:
            file.remove("endpoints", "url", url)
        else:
            # Refused where the list comes from a source that goes before the file.
            file.set(("endpoints", number, "name"), name)
            file.unset(("endpoints", number))

    note = change_settings(ctx, edit)
    ctx.admin.pauses.resume(name)
    return Change(f"removed the endpoint {name}", note=f"{name} was removed. {note}".strip())


def _entries(ctx: AppContext) -> Sequence[Any]:
    """The entries of [[endpoints]]; see config.endpoints.EndpointSettings."""
    entries: Sequence[Any] = settings_of(ctx).value("endpoints")
    return entries


def _trial(ctx: AppContext, values: Mapping[str, Any]) -> EndpointTrial:
    """What a server is. Raises SettingsRefused for values that the settings would refuse."""
    begin, kind = ctx.clock(), values.get("type")
    try:
        tried = settings_of(ctx).try_server(values.get("url", ""), values.get("api_key"), kind)
    except SettingsRefused:
        raise
    except ProxyError as exc:
        return EndpointTrial(kind or "openai", ctx.clock() - begin, problem=str(exc))
    seconds = ctx.clock() - begin
    return EndpointTrial(tried.kind, seconds, sorted(tried.models), lists_none=tried.offers_any)


def _values(form: Form) -> dict[str, Any]:
    """The entry of [[endpoints]] that a form describes."""
    texts = {name: sent_forms.text(form, name) for name in _TEXTS}
    numbers = {name: sent_forms.number(form, name) for name in _NUMBERS}
    models = [glob.strip() for glob in form.get("models", "").split(",") if glob.strip()]
    return sent_forms.filled(**texts, **numbers) | ({"models": models} if models else {})


def _in_words(trial: EndpointTrial) -> str:
    if trial.problem:
        return f"it was not tested successfully ({trial.problem.rstrip('.')})."
    if trial.lists_none:
        return "it lists no models, so that any model may be requested."
    return f"{trial.kind}, {len(trial.models)} model{'s' if len(trial.models) != 1 else ''}."


ENDPOINTS = AdminSection(
    "Endpoints",
    _list,
    {"try-endpoint": AdminAction(_try), "add-endpoint": AdminAction(_add)},
    arguments=("q", PAGE),
)
ENDPOINT = AdminSection(
    "Endpoint",
    _one,
    {
        "test-endpoint": AdminAction(_test),
        "pause-endpoint": AdminAction(_pause, "It is paused: it gets no new requests."),
        "resume-endpoint": AdminAction(_resume, "It gets requests again."),
        "remove-endpoint": AdminAction(_remove, leads_to="endpoints"),
    },
    arguments=("name",),
    within="endpoints",
)
