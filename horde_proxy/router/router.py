"""From a model's name to the candidates that may answer, the best first.

The router only decides; `failover` makes the calls. Any thread may use a Router.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from horde_proxy.aihorde.names import untagged
from horde_proxy.errors import InvalidRequest, ModelNotFound, ProxyError, Refused
from horde_proxy.places import Binding
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.models import is_available
from horde_proxy.router import failover
from horde_proxy.router.absence import LONGEST_SHOWN_NAME, Absence
from horde_proxy.router.candidates import Candidate, Candidates, named
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.router.endpoint_state import endpoint_state
from horde_proxy.router.hedge import HedgeRules
from horde_proxy.router.model_index import ModelIndex, VisibleModels
from horde_proxy.router.model_names import WORDS, alias_chain, aliases_in, expected_seconds
from horde_proxy.router.preference import ANY_ORDER, Preference, is_cold
from horde_proxy.router.scope import EVERYTHING, PlacesExcluded, Scope, bound
from horde_proxy.router.sticky import StickySession, StickySessions
from horde_proxy.upstreams.base import Caller, StreamItem, Waiting
from horde_proxy.upstreams.proxying import ProxyRequest, ProxyResponse

_ANY_MODEL = "any model"


class Router:
    """All endpoints, the aliases of models, and the fallbacks of each model.

    `max_wait`: a model with a longer expected wait (s) comes after its fallbacks. `short_ids`:
    models are listed by ids without a slash; see router.short_ids. `alias_places`: the places to
    which requests are bound that name an alias. `sticky` knows the endpoint of each session; None:
    each request goes to the least busy endpoint. `hedge`: when a second candidate is tried beside
    a late one; None: never.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        aliases: Mapping[str, str] | None = None,
        fallbacks: Mapping[str, Sequence[str]] | None = None,
        max_wait: float | None = None,
        chance: Callable[[], float] = random.random,
        *,
        short_ids: bool = False,
        alias_places: Mapping[str, Collection[str]] | None = None,
        sticky: StickySessions | None = None,
        hedge: HedgeRules | None = None,
    ) -> None:
        self.endpoints = endpoints
        self._alias_places = {
            name.casefold(): Binding(f"the alias `{name}`", frozenset(places))
            for name, places in (alias_places or {}).items()
        }
        self._aliases = {name.casefold(): target for name, target in (aliases or {}).items()}
        self._fallbacks = {_key(name): names for name, names in (fallbacks or {}).items()}
        self._max_wait, self._chance, self._hedge = max_wait, chance, hedge
        self._sticky = sticky if len(endpoints) > 1 else None
        reserved = {*self._aliases, *WORDS} if short_ids else None
        self._index = ModelIndex(endpoints, reserved)
        self._absence = Absence(endpoints, self._index)
        self.can_proxy = any(endpoint.can_proxy for endpoint in endpoints)

    @property
    def hedges(self) -> bool:
        """Whether a late answer gets another endpoint beside the first one."""
        return self._hedge is not None

    @property
    def has_sessions(self) -> bool:
        """Whether it makes a difference which session a request belongs to."""
        return self._sticky is not None

    def models(self, scope: Scope = EVERYTHING) -> list[dict[str, Any]]:
        """OpenAI's model objects of all endpoints, each with the `endpoints` that offer it.

        The endpoint with the lowest priority number describes a model. Raises the ProxyError of
        the only endpoint while its models could never be listed.
        """
        models = list(self._index.visible_to(scope).listing)
        if not models and len(self.endpoints) == 1 and self.endpoints[0].error:
            raise named(self.endpoints[0].name, self.endpoints[0].error)
        return models

    def model(self, name: str, scope: Scope = EVERYTHING) -> dict[str, Any]:
        """One model object. Raises ModelNotFound, which suggests similar models, or any."""
        scope = self.scope_for([name], scope)
        visible, groups = self._resolve(name, scope)
        if not groups:
            raise self._absence.unknown(name, scope)
        return visible.listed(groups[0][0])

    def scope_for(self, names: Sequence[str], scope: Scope) -> Scope:
        """The scope of a request for models: within the places of each alias among their names.

        Raises PlacesExcluded where no place is left.
        """
        if not self._alias_places:
            return scope
        passed = [alias for name in names for alias in aliases_in(name, self._aliases)]
        return bound(scope, *filter(None, map(self._alias_places.get, passed)))

    def alias_target(self, name: str) -> str:
        """What a name leads to by the aliases; the name itself without one."""
        return alias_chain(name, self._aliases)[-1] or name

    def short_ids(self, scope: Scope = EVERYTHING) -> Mapping[str, str]:
        """The ids by which clients see models, by their full ids and their endpoints' own names.

        Models that clients see by their full ids are left out.
        """
        return self._index.visible_to(scope).short_ids

    def was_offered(self, name: str) -> bool:
        """Whether a model had exactly this name when the models were last listed."""
        # The name of the model that answered may be the upstream's own, without the prefix.
        return any(
            listed in endpoint.last_models()
            for endpoint in self.endpoints
            for listed in (name, endpoint.prefix + name)
        )

    def candidates(
        self,
        name: str | None,
        scope: Scope = EVERYTHING,
        endpoint: str | None = None,
        further: Sequence[str] = (),
        session: str | None = None,
    ) -> Candidates:
        """The candidates for the models that a name refers to, then those for its fallbacks.

        The best comes first. Without a name, they are all endpoints that can proxy. `endpoint`
        limits them to the endpoint of this name. `further` are fallbacks of the request itself,
        which come before those of the settings; each must be within the scope. The places of all
        aliases among these names bind all candidates. `session` is the identity of the client's
        conversation, whose endpoint comes first among equals.

        Raises ModelNotFound, InvalidRequest, Refused, PlacesExcluded, Unavailable or
        AllEndpointsFailed.
        """
        if endpoint is not None and all(known.name != endpoint for known in self.endpoints):
            raise InvalidRequest(f"There is no endpoint {endpoint[:LONGEST_SHOWN_NAME]!r}.")
        scope = self.scope_for([*filter(None, [name]), *further], scope)
        try:
            missing = self._missing((name, *further), scope) if name and further else ()
            sticky = self._session(name, session)
            preference = Preference(self._chance, sticky.endpoint if sticky else None)
            candidates = self._allowed(name, scope, endpoint, further, preference)
        except ModelNotFound:
            self._check_places(name, scope, endpoint, further)
            raise
        if name is None:
            if not candidates:
                self._check_places(name, scope, endpoint, further)
            return Candidates(_ANY_MODEL, candidates, {}, scope)
        # A client that names one endpoint asks nothing of the others.
        absent = self._absence.reasons(candidates, scope) if endpoint is None else {}
        return Candidates(name, candidates, absent, scope, missing, sticky)

    def _session(self, name: str | None, identity: str | None) -> StickySession | None:
        """The session of a conversation with a model, if that makes a difference."""
        if self._sticky is None or name is None or identity is None:
            return None
        return self._sticky.session(name, identity)

    def _allowed(
        self,
        name: str | None,
        scope: Scope,
        endpoint: str | None,
        further: Sequence[str],
        preference: Preference = ANY_ORDER,
    ) -> list[Candidate]:
        """The candidates in a scope. Raises what `candidates` does, but for PlacesExcluded."""
        if name is None:
            return self._for_any_model(scope, endpoint)
        candidates = self._for_model(name, scope, preference)
        fallbacks = [
            candidate
            for fallback in (*further, *self._fallbacks_of(name, candidates, scope))
            for candidate in self._for_fallback(fallback, scope, preference)
        ]
        candidates = self._by_wait(candidates, fallbacks)
        if endpoint is not None:
            candidates = [
                candidate for candidate in candidates if candidate.endpoint.name == endpoint
            ]
        if not candidates:
            raise self._absence.unknown(name, scope, endpoint)
        return candidates

    def _check_places(
        self, name: str | None, scope: Scope, endpoint: str | None, further: Sequence[str]
    ) -> None:
        """Raises PlacesExcluded if there would be candidates, were nothing bound to places."""
        if not scope.bindings:
            return
        try:
            excluded = self._allowed(name, scope.without_places(), endpoint, further)
        except ProxyError:
            return
        if excluded:
            raise self._absence.beyond_places(name, scope, excluded)

    def proxy(
        self, call: ProxyRequest, candidates: Candidates, caller: Caller
    ) -> Generator[Waiting, None, ProxyResponse | None]:
        """Waitings, then the response of the first candidate that gives a good one.

        See failover.proxy.
        """
        return failover.proxy(call, candidates, caller, self._hedge)

    def stream(
        self, request: GenerationRequest, candidates: Candidates, caller: Caller
    ) -> Generator[StreamItem, None, None]:
        """The items of the first candidate that answers; see failover.stream."""
        return failover.stream(request, candidates, caller, self._hedge)

    def states(self, scope: Scope = EVERYTHING) -> list[dict[str, Any]]:
        """The state of each endpoint as JSON: type, url, models, circuit breaker. No secrets."""
        # Lets the lists load at the same time, before they are looked at one by one.
        self._index.visible_to(scope)
        return [
            endpoint_state(endpoint, scope)
            for endpoint in self.endpoints
            if endpoint.is_open_to(scope)
        ]

    def _resolve(
        self, name: str, scope: Scope, *, may_refresh: bool = True
    ) -> tuple[VisibleModels, list[list[str]]]:
        """The visible models, and the groups of them that a name refers to.

        If no model matches, the endpoints' lists are loaded again: a new worker may have come.
        """
        visible = self._index.visible_to(scope)
        groups = visible.groups(name, self._aliases)
        # Upstreams load at most once in two seconds, however many clients send a wrong name.
        if not groups and may_refresh:
            for endpoint in self.endpoints:
                endpoint.upstream.refresh()
            visible = self._index.visible_to(scope)
            groups = visible.groups(name, self._aliases)
        return visible, groups

    def _for_model(
        self, name: str, scope: Scope, preference: Preference, *, is_fallback: bool = False
    ) -> list[Candidate]:
        # Only the requested name reloads the lists: a fallback may be missing for good.
        visible, groups = self._resolve(name, scope, may_refresh=not is_fallback)
        if not groups:
            return self._without_lists(name, scope, preference, is_fallback)
        return [
            candidate
            for group in groups
            for endpoint in preference.ordered(
                _serving(group, visible), partial(_own_names, group, visible)
            )
            for candidate in _candidates_at(endpoint, group, visible, is_fallback)
        ]

    def is_gone(self, name: str) -> bool | None:
        """Whether no available model has this name now; None where not all lists are known."""
        visible = self._index.visible_to(EVERYTHING)
        models = (model for group in visible.groups(name, self._aliases) for model in group)
        if any(is_available(visible.models[model]) for model in models):
            return False
        is_known = not any(
            endpoint.error or endpoint.down() or endpoint.may_serve(name)
            for endpoint in self.endpoints
        )
        return True if is_known else None

    def nearest(self, name: str) -> list[str]:
        """The ids of available models whose names are like this one, the nearest first."""
        return self._absence.nearest(name)

    def _missing(self, names: Sequence[str], scope: Scope) -> tuple[str, ...]:
        """Those of a request's names that no model has now.

        Raises ModelNotFound if the first is beyond the scope, and Refused if another one is,
        whether there is such a model or not.
        """
        missing = [
            name for name in names if not self._for_model(name, scope, ANY_ORDER, is_fallback=True)
        ]
        hidden = [name for name in missing if not scope.allows_model(name)]
        if hidden and hidden[0] == names[0]:
            raise self._absence.unknown(names[0], scope)
        if hidden:
            raise Refused("This key is for some models only, and the request names others.")
        return tuple(missing)

    def _for_fallback(self, name: str, scope: Scope, preference: Preference) -> list[Candidate]:
        """The candidates for a fallback, which may be an alias that is bound to fewer places."""
        try:
            own = self.scope_for([name], scope)
            return self._for_model(name, own, preference, is_fallback=True)
        except PlacesExcluded:
            return []

    def _without_lists(
        self, name: str, scope: Scope, preference: Preference, is_fallback: bool
    ) -> list[Candidate]:
        """The endpoints that list no models, and may be tried for any model."""
        name = alias_chain(name, self._aliases)[-1]
        if not name or not scope.allows_model(name):
            return []
        endpoints = [
            endpoint
            for endpoint in self.endpoints
            if endpoint.may_serve(name) and endpoint.is_open_to(scope, endpoint.own_name(name))
        ]
        return [
            Candidate(endpoint, (endpoint.own_name(name),), is_fallback, (name,))
            for endpoint in preference.ordered(endpoints, lambda known: (known.own_name(name),))
        ]

    def _for_any_model(self, scope: Scope, endpoint: str | None) -> list[Candidate]:
        """All endpoints that can proxy.

        The order is always the same, so that a file is found again at the endpoint that stores it.
        """
        if not scope.allows_all_models:
            raise Refused("This key is for some models only, and the request names no model.")
        return [
            Candidate(known, ("",))
            for known in sorted(self.endpoints, key=_priority)
            if known.can_proxy and known.is_open_to(scope) and endpoint in (None, known.name)
        ]

    def _fallbacks_of(
        self, name: str, candidates: Sequence[Candidate], scope: Scope
    ) -> Sequence[str]:
        """The fallbacks of the name, else of what it is an alias of, the best model, or "*"."""
        if not self._fallbacks:
            return ()
        best = candidates[0].model if candidates else None
        short = self.short_ids(scope).get(best) if best else None
        # "*" are the fallbacks of all models that have none of their own.
        for key in (*alias_chain(name, self._aliases), best, short, "*"):
            fallbacks = self._fallbacks.get(_key(key)) if key else None
            if fallbacks:
                return fallbacks
        return ()

    def _by_wait(
        self, candidates: Sequence[Candidate], fallbacks: Sequence[Candidate]
    ) -> list[Candidate]:
        """All candidates, with the fallbacks before those that have too long a wait.

        A machine that boots too long comes after other endpoints for the same models, too.
        """
        if self._max_wait is None:
            return [*candidates, *fallbacks]
        # They stay as a last resort: a late answer is better than an error.
        asleep = [candidate for candidate in candidates if self._boots_too_long(candidate)]
        awake = [candidate for candidate in candidates if candidate not in asleep]
        slow = [candidate for candidate in awake if fallbacks and self._is_too_slow(candidate)]
        quick = [candidate for candidate in awake if candidate not in slow]
        put_off = [replace(candidate, is_put_off=True) for candidate in asleep]
        return [*quick, *fallbacks, *slow, *put_off]

    def _is_too_slow(self, candidate: Candidate) -> bool:
        model = candidate.endpoint.models().get(candidate.model or "", {})
        return self._max_wait is not None and expected_seconds(model) > self._max_wait

    def _boots_too_long(self, candidate: Candidate) -> bool:
        """Whether its machine sleeps, and another endpoint answers while it boots."""
        return self._max_wait is not None and candidate.endpoint.seconds_to_wake() > self._max_wait


def _key(name: str) -> str:
    """What the fallbacks of a model are found by."""
    return untagged(name).casefold()


def _priority(endpoint: Endpoint) -> int:
    return endpoint.priority


def _serving(group: Sequence[str], visible: VisibleModels) -> list[Endpoint]:
    """The endpoints of all models of a group, without duplicates."""
    return list(dict.fromkeys(endpoint for name in group for endpoint in visible.serving[name]))


def _own_names(group: Sequence[str], visible: VisibleModels, endpoint: Endpoint) -> list[str]:
    """The endpoint's own names of those models of a group that it offers."""
    return [endpoint.own_name(name) for name in group if endpoint in visible.serving[name]]


def _candidates_at(
    endpoint: Endpoint, group: Sequence[str], visible: VisibleModels, is_fallback: bool
) -> Iterator[Candidate]:
    """The candidates for a group at one endpoint. Models that may share a request are one.

    Those in memory come first: a group's models are equally good.
    """
    models = _own_names(group, visible, endpoint)
    if len(models) > 1:
        models.sort(key=lambda model: is_cold(endpoint, (model,)))
    # A request to the horde may name several models, one to another server only one.
    while models:
        shared = endpoint.upstream.shared(models)
        yield Candidate(endpoint, shared, is_fallback, tuple(group))
        models = [model for model in models if model not in shared]
