"""The order of the endpoints that offer the same models, for one request.

    priority     the lowest number first: it says that an endpoint is worth the time to boot
    awake        then those whose machines need not be woken
    session      then the endpoint that has read the conversation      } unless it is much busier
    in memory    then those that need not load the model first         } than the least busy one
    load         then by the running requests for each unit of weight, then by chance

An endpoint that cools down keeps its place, and is passed over when its turn comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from typing import cast

from horde_proxy.router.endpoint import Endpoint
from horde_proxy.upstreams.base import TellsCapacity

SLACK = 2
"""So many requests more than the least busy endpoint, for each unit of weight, are not much busier.
Two answers take about as long as reading a long chat anew, and most servers at home compute two or
more at a time."""

_NO_ADVANTAGE = 2
"""The rank of an endpoint that has read nothing and must load the model, or is much busier."""

ModelsAt = Callable[[Endpoint], Sequence[str]]
"""The endpoint's own names of the models that a request is for."""


class Preference:
    """The order for one request. `sticky` is the name of the endpoint of its session, if any."""

    def __init__(self, chance: Callable[[], float], sticky: str | None = None) -> None:
        self._chance, self._sticky = chance, sticky

    def ordered(self, endpoints: Sequence[Endpoint], models_at: ModelsAt) -> list[Endpoint]:
        """The endpoints, the best first."""
        if len(endpoints) < 2:
            return list(endpoints)
        cold = {endpoint for endpoint in endpoints if is_cold(endpoint, models_at(endpoint))}
        ranks: Mapping[Endpoint, int] = {}
        # Most requests begin a conversation, or have no endpoint with an advantage.
        if cold or any(endpoint.name == self._sticky for endpoint in endpoints):
            ranks = self._ranks(endpoints, cold, models_at)
        return sorted(
            endpoints,
            key=lambda endpoint: (
                endpoint.priority,
                not endpoint.is_awake,
                ranks.get(endpoint, _NO_ADVANTAGE),
                _load(endpoint),
                self._chance(),
            ),
        )

    def _ranks(
        self, endpoints: Sequence[Endpoint], cold: AbstractSet[Endpoint], models_at: ModelsAt
    ) -> Mapping[Endpoint, int]:
        """The ranks of those with an advantage: 0 for the session's, 1 for those in memory."""
        ranks = {}
        for priority in {endpoint.priority for endpoint in endpoints}:
            equals = [endpoint for endpoint in endpoints if endpoint.priority == priority]
            near = _near(equals, models_at)
            warm = [endpoint for endpoint in near if endpoint not in cold]
            # Where all must load the model, or none must, only the session makes a difference.
            is_mixed = 0 < len(warm) < len(near)
            for endpoint in warm or near:
                if endpoint.name == self._sticky:
                    ranks[endpoint] = 0
                elif is_mixed:
                    ranks[endpoint] = 1
        return ranks


ANY_ORDER = Preference(lambda: 0.0)
"""For questions whose answer does not depend on the order."""


def is_cold(endpoint: Endpoint, models: Sequence[str]) -> bool:
    """Whether the server says that it has none of the models in memory.

    What it said may be some seconds old, so that a model which has just answered is not cold.
    """
    if not _tells_capacity(type(endpoint.upstream)):
        return False
    upstream, health = cast(TellsCapacity, endpoint.upstream), endpoint.health
    return all(
        upstream.is_loaded(model) is False and not health.is_in_use(model) for model in models
    )


@cache
def _tells_capacity(kind: type) -> bool:
    """Whether upstreams of this class tell it. Remembered: looking costs more than sorting."""
    return issubclass(kind, TellsCapacity)


def _near(endpoints: Sequence[Endpoint], models_at: ModelsAt) -> list[Endpoint]:
    """Those that are not much busier than the least busy one that may be used now."""
    loads = [
        _load(endpoint)
        for endpoint in endpoints
        if endpoint.is_awake and all(map(endpoint.may_be_used, models_at(endpoint)))
    ]
    least = min(loads, default=float("inf"))
    return [
        endpoint
        for endpoint in endpoints
        if _load(endpoint, SLACK) <= least or _has_free_slot(endpoint, models_at(endpoint))
    ]


def _load(endpoint: Endpoint, slack: int = 0) -> float:
    """The requests that run or wait there for each unit of weight, after this one has come."""
    # Plus one, so that of two idle endpoints, the one with more weight comes first.
    requests = endpoint.breaker.running + endpoint.line.state().waiting
    return (requests + 1 - slack) / endpoint.weight


def _has_free_slot(endpoint: Endpoint, models: Sequence[str]) -> bool:
    """Whether the endpoint has so many slots and no more, and one is free that nobody waits for."""
    states = [endpoint.line.state(model) for model in models]
    return any(
        state.slots is not None and state.running < state.slots and not state.waiting
        for state in states
    )
