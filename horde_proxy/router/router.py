"""From a model's name to the endpoints that offer it, and from one to the next. No Flask here."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from horde_proxy.errors import (
    AllEndpointsFailed,
    ClientGone,
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    ProxyError,
    RateLimited,
    Refused,
    ShuttingDown,
    TimedOut,
    Unavailable,
    UpstreamFailed,
)
from horde_proxy.protocol.chat import GenerationRequest
from horde_proxy.router.candidates import Candidate, Candidates
from horde_proxy.router.circuit_breaker import Attempt
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.router.failover import SplicedStream
from horde_proxy.router.model_index import EVERYTHING, ModelIndex, Scope, VisibleModels
from horde_proxy.router.model_names import expected_seconds
from horde_proxy.upstreams.base import Accepted, Caller, StreamItem
from horde_proxy.upstreams.openai.errors import fault_of, overflow_of
from horde_proxy.upstreams.proxying import ProxyRequest, ProxyResponse

_NEAR_NAMES = 3
_NEAR_CUTOFF = 0.4
_LONGEST_NAME = 200
_NONE_YET = 5
"""A horde's first worker may be about to come (s)."""
_ANY = "any model"
_NOT_THERE = frozenset({404, 405, 501})
"""What an endpoint says that has not what a request is about that names no model."""

__all__ = ["EVERYTHING", "Candidates", "Endpoint", "Router", "Scope"]


class Router:
    """Knows all endpoints, the aliases of models, and what to ask instead of a model.

    `max_wait`: a model whose expected wait is longer (s) comes after its fallbacks.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        aliases: Mapping[str, str] | None = None,
        fallbacks: Mapping[str, Sequence[str]] | None = None,
        max_wait: float | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.endpoints = endpoints
        self._aliases = aliases or {}
        folded = {name.casefold(): names for name, names in (fallbacks or {}).items()}
        self._fallbacks: Mapping[str, Sequence[str]] = folded
        self._max_wait, self._chance = max_wait, chance
        self._offers = ModelIndex(endpoints)
        self.relays = any(endpoint.relays for endpoint in endpoints)

    def models(self, scope: Scope = EVERYTHING) -> list[dict[str, Any]]:
        """OpenAI's model objects of all endpoints, each with the `endpoints` that offer it.

        The endpoint with the lowest priority number describes it. Raises the ProxyError of the
        only endpoint, while its models have never been had.
        """
        models = list(self._offers.seen_by(scope).models.values())
        if not models and len(self.endpoints) == 1 and self.endpoints[0].error:
            raise self.endpoints[0].error
        return models

    def offers(self, name: str) -> bool:
        """Whether a model was on offer under just this name when that was last looked at."""
        return any(
            known in each.told() for each in self.endpoints for known in (name, each.prefix + name)
        )

    def model(self, name: str, scope: Scope = EVERYTHING) -> dict[str, Any]:
        """One model object. Raises ModelNotFound, which names near ones, or some."""
        view, groups = self._resolved(name, scope)
        if not groups:
            raise self._unknown(name, scope)
        return view.models[groups[0][0]]

    def candidates(
        self, name: str | None, scope: Scope = EVERYTHING, endpoint: str | None = None
    ) -> Candidates:
        """The candidates for what a name stands for, best first, and then for its fallbacks.

        Without a name, all that take requests as they are. `endpoint`: that one only. Raises
        ModelNotFound, InvalidRequest, Refused or AllEndpointsFailed.
        """
        if endpoint is not None and all(each.name != endpoint for each in self.endpoints):
            raise InvalidRequest(f"There is no endpoint {endpoint[:_LONGEST_NAME]!r}.")
        if name is None:
            return self._of_any(scope, endpoint)
        found = self._of_model(name, scope)
        others = [
            each
            for fallback in self._fallbacks_of(name, found)
            for each in self._of_model(fallback, scope, is_fallback=True)
        ]
        found = self._by_wait(found, others) if others else found
        if endpoint is not None:
            found = [each for each in found if each.endpoint.name == endpoint]
        if not found:
            raise self._unknown(name, scope)
        return Candidates(name, found, self._others(found, scope))

    def relay(self, call: ProxyRequest, candidates: Candidates) -> ProxyResponse | None:
        """The answer of the first candidate that gives one, for as long as they take calls as
        they are; None when one that does not comes next, or none is left.

        The only one there is may also answer that it has failed. Closing it ends the attempt.
        """
        last: ProxyResponse | None = None
        for candidate, attempt in candidates.relaying():
            if last is not None:
                last.close()
            last, is_good = self._tried(call, candidate, attempt, candidates)
            if last is not None and is_good:
                return last
        if last is not None and candidates.is_alone and not candidates:
            return last
        if last is not None:
            last.close()
        return None

    def stream(
        self, request: GenerationRequest, candidates: Candidates, caller: Caller
    ) -> Iterator[StreamItem]:
        """The answer of the first candidate that gives one; see horde_proxy.upstreams.

        Another is asked only while the client has seen no content.
        """
        shown = SplicedStream()
        for candidate, attempt in candidates:
            try:
                yield from shown.only_new(_followed(request, candidate, attempt, caller))
                return
            except ContextLengthExceeded as exc:
                if shown.content or not candidates.has_fallback():
                    raise
                candidates.overflowed(exc)
            except (UpstreamFailed, Unavailable, RateLimited, TimedOut) as exc:
                if shown.content or isinstance(exc, ShuttingDown):
                    raise
                candidates.failed(candidate, attempt, exc)
                if not candidates:
                    raise candidates.error() from exc
            finally:
                attempt.end()
        raise candidates.error()

    def states(self, scope: Scope = EVERYTHING) -> list[dict[str, Any]]:
        """What may be told of each endpoint: type, url, models, and how it fares. No secrets."""
        self._offers.seen_by(scope)
        return [_state(each) for each in self.endpoints if scope.allows_endpoint(each.name)]

    def _tried(
        self, call: ProxyRequest, candidate: Candidate, attempt: Attempt, candidates: Candidates
    ) -> tuple[ProxyResponse | None, bool]:
        """The answer, and whether it will do; None where there is none at all."""
        assert candidate.relays is not None
        try:
            relayed = candidate.relays.relay(call, candidate.models[0] if call.model else None)
        except ProxyError as exc:
            if not isinstance(exc, ClientGone | ShuttingDown):
                candidates.failed(candidate, attempt, exc)
                return None, False
            attempt.end()
            raise
        except BaseException:
            attempt.end()
            raise
        relayed.on_close.append(attempt.end)
        try:
            return relayed, self._is_good(relayed, candidate, attempt, candidates)
        except BaseException:
            relayed.close()
            raise

    def _is_good(
        self, relayed: ProxyResponse, candidate: Candidate, attempt: Attempt, candidates: Candidates
    ) -> bool:
        """Whether the answer is one for the client."""
        relayed.model = candidate.model
        relayed.headers.append(("X-Endpoint", candidate.endpoint.name))
        try:
            fault = fault_of(relayed)
            overflow = overflow_of(relayed) if candidates.has_fallback() else None
        except (ClientGone, ShuttingDown):
            raise
        except ProxyError as exc:
            fault, overflow = exc, None
        if fault is not None:
            candidates.failed(candidate, attempt, fault)
            return False
        attempt.answered()
        if overflow is not None:
            candidates.overflowed(overflow)
        elif candidate.model is None and candidates and relayed.status in _NOT_THERE:
            candidates.lacking(candidate, relayed.status)
            return False
        return overflow is None

    def _resolved(
        self, name: str, scope: Scope, *, is_wanted: bool = True
    ) -> tuple[VisibleModels, list[list[str]]]:
        """What a name stands for; `is_wanted`: where that is nothing, the lists are asked for."""
        view = self._offers.seen_by(scope)
        groups = view.groups(name, self._aliases)
        if not groups and is_wanted:
            for endpoint in self.endpoints:
                endpoint.upstream.refresh()
            view = self._offers.seen_by(scope)
            groups = view.groups(name, self._aliases)
        return view, groups

    def _of_model(self, name: str, scope: Scope, *, is_fallback: bool = False) -> list[Candidate]:
        view, groups = self._resolved(name, scope, is_wanted=not is_fallback)
        if not groups:
            return self._of_silent(name, scope, is_fallback)
        return [
            candidate
            for group in groups
            for endpoint in self._ordered(_serving(group, view))
            for candidate in _routes(endpoint, group, view, is_fallback)
        ]

    def _of_silent(self, name: str, scope: Scope, is_fallback: bool) -> list[Candidate]:
        """Those that cannot say what they offer, and may be tried."""
        name = self._aliases.get(name, name)
        silent = [
            each
            for each in self.endpoints
            if each.may_serve(name) and scope.allows_endpoint(each.name)
        ]
        allowed = silent if scope.allows_model(name) else []
        return [
            Candidate(each, (each.own_name(name),), is_fallback) for each in self._ordered(allowed)
        ]

    def _of_any(self, scope: Scope, endpoint: str | None) -> Candidates:
        """In the order of the configuration, so that what one keeps is found there again."""
        if getattr(scope, "models", ()):
            raise Refused("This key is for some models only, and the request names none.")
        found = [
            Candidate(each, ("",))
            for each in sorted(self.endpoints, key=lambda e: e.priority)
            if each.relays and scope.allows_endpoint(each.name) and endpoint in (None, each.name)
        ]
        return Candidates(_ANY, found, {})

    def _ordered(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        """By priority, then by what runs there for its weight; chance decides among equals."""
        if len(endpoints) < 2:
            return list(endpoints)
        return sorted(
            endpoints,
            key=lambda each: (
                each.priority,
                (each.health.running + 1) / each.weight,
                self._chance(),
            ),
        )

    def _fallbacks_of(self, name: str, found: Sequence[Candidate]) -> Sequence[str]:
        """Those of the name, of what it is an alias of, of the model it stands for, or of all."""
        if not self._fallbacks:
            return ()
        model = found[0].model if found else None
        names = (name, self._aliases.get(name), model, "*")
        known = (self._fallbacks.get(each.casefold()) for each in names if each)
        return next((each for each in known if each), ())

    def _by_wait(self, found: Sequence[Candidate], others: Sequence[Candidate]) -> list[Candidate]:
        """What is asked instead comes first where the wait would be too long."""
        slow = [each for each in found if self._is_too_slow(each)]
        quick = [each for each in found if each not in slow]
        return [*quick, *others, *slow]

    def _is_too_slow(self, candidate: Candidate) -> bool:
        endpoint = candidate.endpoint
        model = endpoint.offers().get(endpoint.prefix + candidate.models[0], {})
        return self._max_wait is not None and expected_seconds(model) > self._max_wait

    def _others(self, found: Sequence[Candidate], scope: Scope) -> dict[str, str]:
        """Why the other endpoints are not among the candidates."""
        if len(self.endpoints) == 1:
            return {}
        named = {each.endpoint.name for each in found}
        return {
            each.name: _absence(each)
            for each in self.endpoints
            if each.name not in named and scope.allows_endpoint(each.name)
        }

    def _unknown(self, name: str, scope: Scope) -> ProxyError:
        name = name[:_LONGEST_NAME]
        failing = [each for each in self.endpoints if each.error]
        if len(self.endpoints) == 1 and failing and failing[0].error:
            return failing[0].error
        if failing:
            return AllEndpointsFailed(name, self._others([], scope))
        is_told = any(each.is_silent or each.offers() for each in self.endpoints)
        if not is_told:
            return Unavailable("No model is on offer now.", retry_after=_NONE_YET)
        ids = list(self._offers.seen_by(scope).models)
        near = get_close_matches(name, ids, _NEAR_NAMES, _NEAR_CUTOFF)
        return ModelNotFound(name, near or ids[:_NEAR_NAMES])


def _state(endpoint: Endpoint) -> dict[str, Any]:
    models, state = sorted(endpoint.offers()), endpoint.health.state()
    error = str(endpoint.error) if endpoint.error else None
    if error and state["state"] == "up":
        state = {**state, "state": "down", "last_error": error}
    return {
        "name": endpoint.name,
        "type": endpoint.upstream.kind,
        "url": endpoint.upstream.url,
        "priority": endpoint.priority,
        "weight": endpoint.weight,
        "models": models,
        **state,
    }


def _serving(group: Sequence[str], view: VisibleModels) -> list[Endpoint]:
    return list(dict.fromkeys(each for name in group for each in view.serving[name]))


def _routes(
    endpoint: Endpoint, group: Sequence[str], view: VisibleModels, is_fallback: bool
) -> Iterator[Candidate]:
    """Those of the group that it offers; models that may share a request share a route."""
    models = [endpoint.own_name(name) for name in group if endpoint in view.serving[name]]
    while models:
        shared = endpoint.upstream.shared(models)
        yield Candidate(endpoint, shared, is_fallback)
        models = [each for each in models if each not in shared]


def _followed(
    request: GenerationRequest, candidate: Candidate, attempt: Attempt, caller: Caller
) -> Iterator[StreamItem]:
    for item in candidate.route.upstream.stream(request, candidate.route, caller):
        if isinstance(item, Accepted):
            attempt.answered()
        yield item


def _absence(endpoint: Endpoint) -> str:
    error = endpoint.error
    return f"its models cannot be had: {str(error).rstrip('.')}" if error else "does not offer it"
