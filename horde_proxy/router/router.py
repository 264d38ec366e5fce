"""From a model's name to the candidates that may answer, the best first.

The router only decides; `failover` makes the calls. Any thread may use a Router.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from horde_proxy.aihorde.names import untagged
from horde_proxy.errors import (
    AllEndpointsFailed,
    InvalidRequest,
    ModelNotFound,
    ProxyError,
    Refused,
    Unavailable,
)
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.models import is_available
from horde_proxy.router import failover
from horde_proxy.router.candidates import Candidate, Candidates, named
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.router.model_index import EVERYTHING, ModelIndex, Scope, VisibleModels
from horde_proxy.router.model_names import WORDS, alias_chain, expected_seconds
from horde_proxy.upstreams.base import Caller, StreamItem
from horde_proxy.upstreams.proxying import ProxyRequest, ProxyResponse

_NEAR_NAMES = 3
"""Names that the error of an unknown model suggests."""
_NEAR_CUTOFF = 0.4
"""difflib's default of 0.6 finds too few names: quantisation and author make names differ a lot."""
_LONGEST_SHOWN_NAME = 200
"""Characters of a client's name that an error repeats; it may be megabytes long."""
_NO_MODELS_RETRY_AFTER = 5
"""Seconds. A horde's first worker may come soon."""
_ANY_MODEL = "any model"


class Router:
    """All endpoints, the aliases of models, and the fallbacks of each model.

    `max_wait`: a model with a longer expected wait (s) comes after its fallbacks. `short_ids`:
    models are listed by ids without a slash; see router.short_ids.
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
    ) -> None:
        self.endpoints = endpoints
        self._aliases = {name.casefold(): target for name, target in (aliases or {}).items()}
        self._fallbacks = {_key(name): names for name, names in (fallbacks or {}).items()}
        self._max_wait, self._chance = max_wait, chance
        reserved = {*self._aliases, *WORDS} if short_ids else None
        self._index = ModelIndex(endpoints, reserved)
        self.can_proxy = any(endpoint.can_proxy for endpoint in endpoints)

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
        visible, groups = self._resolve(name, scope)
        if not groups:
            raise self._unknown(name, scope)
        return visible.listed(groups[0][0])

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
        self, name: str | None, scope: Scope = EVERYTHING, endpoint: str | None = None
    ) -> Candidates:
        """The candidates for the models that a name refers to, then those for its fallbacks.

        The best comes first. Without a name, they are all endpoints that can proxy. `endpoint`
        limits them to the endpoint of this name. Raises ModelNotFound, InvalidRequest, Refused,
        Unavailable or AllEndpointsFailed.
        """
        if endpoint is not None and all(known.name != endpoint for known in self.endpoints):
            raise InvalidRequest(f"There is no endpoint {endpoint[:_LONGEST_SHOWN_NAME]!r}.")
        if name is None:
            return self._for_any_model(scope, endpoint)
        candidates = self._for_model(name, scope)
        fallbacks = [
            candidate
            for fallback in self._fallbacks_of(name, candidates, scope)
            for candidate in self._for_model(fallback, scope, is_fallback=True)
        ]
        if fallbacks:
            candidates = self._by_wait(candidates, fallbacks)
        if endpoint is not None:
            candidates = [
                candidate for candidate in candidates if candidate.endpoint.name == endpoint
            ]
        if not candidates:
            raise self._unknown(name, scope, endpoint)
        return Candidates(name, candidates, self._absent(candidates, scope))

    def proxy(self, call: ProxyRequest, candidates: Candidates) -> ProxyResponse | None:
        """The response of the first candidate that gives a good one; see failover.proxy."""
        return failover.proxy(call, candidates)

    def stream(
        self, request: GenerationRequest, candidates: Candidates, caller: Caller
    ) -> Generator[StreamItem, None, None]:
        """The items of the first candidate that answers; see failover.stream."""
        return failover.stream(request, candidates, caller)

    def states(self, scope: Scope = EVERYTHING) -> list[dict[str, Any]]:
        """The state of each endpoint as JSON: type, url, models, circuit breaker. No secrets."""
        # Lets the lists load at the same time, before they are looked at one by one.
        self._index.visible_to(scope)
        return [
            _state(endpoint, scope)
            for endpoint in self.endpoints
            if scope.allows_endpoint(endpoint.name)
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

    def _for_model(self, name: str, scope: Scope, *, is_fallback: bool = False) -> list[Candidate]:
        # Only the requested name reloads the lists: a fallback may be missing for good.
        visible, groups = self._resolve(name, scope, may_refresh=not is_fallback)
        if not groups:
            return self._without_lists(name, scope, is_fallback)
        return [
            candidate
            for group in groups
            for endpoint in self._ordered(_serving(group, visible))
            for candidate in _candidates_at(endpoint, group, visible, is_fallback)
        ]

    def _without_lists(self, name: str, scope: Scope, is_fallback: bool) -> list[Candidate]:
        """The endpoints that list no models, and may be tried for any model."""
        name = alias_chain(name, self._aliases)[-1]
        if not name or not scope.allows_model(name):
            return []
        endpoints = [
            endpoint
            for endpoint in self.endpoints
            if endpoint.may_serve(name) and scope.allows_endpoint(endpoint.name)
        ]
        return [
            Candidate(endpoint, (endpoint.own_name(name),), is_fallback)
            for endpoint in self._ordered(endpoints)
        ]

    def _for_any_model(self, scope: Scope, endpoint: str | None) -> Candidates:
        """All endpoints that can proxy.

        The order is always the same, so that a file is found again at the endpoint that stores it.
        """
        if not scope.allows_all_models:
            raise Refused("This key is for some models only, and the request names no model.")
        candidates = [
            Candidate(known, ("",))
            for known in sorted(self.endpoints, key=_priority)
            if known.can_proxy
            and scope.allows_endpoint(known.name)
            and endpoint in (None, known.name)
        ]
        return Candidates(_ANY_MODEL, candidates, {})

    def _ordered(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        """By priority, then by the running requests for each unit of weight, then by chance."""
        if len(endpoints) < 2:
            return list(endpoints)
        # Plus one, so that of two idle endpoints, the one with more weight comes first.
        return sorted(
            endpoints,
            key=lambda endpoint: (
                endpoint.priority,
                (endpoint.breaker.running + 1) / endpoint.weight,
                self._chance(),
            ),
        )

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
        """All candidates, with the fallbacks before those that have too long a wait."""
        # They stay as a last resort: a late answer is better than an error.
        slow = [candidate for candidate in candidates if self._is_too_slow(candidate)]
        quick = [candidate for candidate in candidates if candidate not in slow]
        return [*quick, *fallbacks, *slow]

    def _is_too_slow(self, candidate: Candidate) -> bool:
        model = candidate.endpoint.models().get(candidate.model or "", {})
        return self._max_wait is not None and expected_seconds(model) > self._max_wait

    def _absent(self, candidates: Sequence[Candidate], scope: Scope) -> dict[str, str]:
        """The reasons why the other endpoints are not candidates, by the endpoint's name."""
        if len(self.endpoints) == 1:
            return {}
        present = {candidate.endpoint.name for candidate in candidates}
        return {
            endpoint.name: _reason_for_absence(endpoint)
            for endpoint in self.endpoints
            if endpoint.name not in present and scope.allows_endpoint(endpoint.name)
        }

    def _unknown(self, name: str, scope: Scope, endpoint: str | None = None) -> ProxyError:
        """The error for a name without candidates: a 404 only if all lists could be loaded.

        Only endpoints that the client may use count; if it named one, only that one.
        """
        name = name[:_LONGEST_SHOWN_NAME]
        endpoints = [
            known
            for known in self.endpoints
            if endpoint in (None, known.name) and scope.allows_endpoint(known.name)
        ]
        errors = [known.error for known in endpoints if known.error]
        # With one endpoint its own error says more than a list of reasons with one entry.
        if len(endpoints) == 1 and errors:
            return named(endpoints[0].name, errors[0])
        if errors:
            return AllEndpointsFailed(name, self._absent([], scope))
        if endpoints and not any(map(_offers_something, endpoints)):
            return Unavailable(
                "No models are available right now.", retry_after=_NO_MODELS_RETRY_AFTER
            )
        visible = self._index.visible_to(scope)
        ids = [
            visible.short_ids.get(full, full)
            for full, serving in visible.serving.items()
            if not set(endpoints).isdisjoint(serving) and is_available(visible.models[full])
        ]
        near = get_close_matches(name, ids, _NEAR_NAMES, _NEAR_CUTOFF)
        return ModelNotFound(name, near or ids[:_NEAR_NAMES])


def _key(name: str) -> str:
    """What the fallbacks of a model are found by."""
    return untagged(name).casefold()


def _priority(endpoint: Endpoint) -> int:
    return endpoint.priority


def _offers_something(endpoint: Endpoint) -> bool:
    return endpoint.upstream.offers_any or any(map(is_available, endpoint.models().values()))


def _state(endpoint: Endpoint, scope: Scope) -> dict[str, Any]:
    models = sorted(name for name in endpoint.models() if scope.allows_model(name))
    state = endpoint.breaker.state()
    # The circuit breaker knows of failed chats only, not of a list that cannot be loaded, nor of
    # chats that wait for a horde that does not answer.
    error = endpoint.down()
    if error and state["state"] == "up":
        state = {**state, "state": "down", "last_error": str(error)}
    return {
        "name": endpoint.name,
        "type": endpoint.upstream.kind,
        "url": endpoint.upstream.url,
        "priority": endpoint.priority,
        "weight": endpoint.weight,
        "models": models,
        **state,
        "failing_models": _failing_models(endpoint, scope),
    }


def _failing_models(endpoint: Endpoint, scope: Scope) -> dict[str, Any]:
    """The states of the models whose last request failed, by the names that clients see."""
    failing = {
        endpoint.prefix + model: breaker for model, breaker in endpoint.health.failing().items()
    }
    states = {
        name: breaker.state() for name, breaker in failing.items() if scope.allows_model(name)
    }
    fields = ("state", "retry_in", "last_error")
    return {name: {field: state[field] for field in fields} for name, state in states.items()}


def _serving(group: Sequence[str], visible: VisibleModels) -> list[Endpoint]:
    """The endpoints of all models of a group, without duplicates."""
    return list(dict.fromkeys(endpoint for name in group for endpoint in visible.serving[name]))


def _candidates_at(
    endpoint: Endpoint, group: Sequence[str], visible: VisibleModels, is_fallback: bool
) -> Iterator[Candidate]:
    """The candidates for a group at one endpoint. Models that may share a request are one."""
    models = [endpoint.own_name(name) for name in group if endpoint in visible.serving[name]]
    # A request to the horde may name several models, one to another server only one.
    while models:
        shared = endpoint.upstream.shared(models)
        yield Candidate(endpoint, shared, is_fallback)
        models = [model for model in models if model not in shared]


def _reason_for_absence(endpoint: Endpoint) -> str:
    if endpoint.error:
        return f"its model list is unavailable: {str(endpoint.error).rstrip('.')}"
    return "does not offer it"
