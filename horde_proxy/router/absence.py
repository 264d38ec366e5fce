"""Why a request has no candidates, or fewer than there are endpoints: reasons and errors.

The router asks here when nothing may answer. Nothing is called or chosen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from horde_proxy.errors import AllEndpointsFailed, ModelNotFound, ProxyError, Unavailable
from horde_proxy.protocol.models import is_available
from horde_proxy.router.candidates import Candidate, named
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.router.model_index import ModelIndex, VisibleModels
from horde_proxy.router.scope import EVERYTHING, PlacesExcluded, Scope

LONGEST_SHOWN_NAME = 200
"""Characters of a client's name that an error repeats; it may be megabytes long."""
_NEAR_NAMES = 3
"""Names that the error of an unknown model suggests."""
_NEAR_CUTOFF = 0.4
"""difflib's default of 0.6 finds too few names: quantisation and author make names differ a lot."""
_NO_MODELS_RETRY_AFTER = 5
"""Seconds. A horde's first worker may come soon."""


class Absence:
    """The reasons and errors for names of models without candidates, among these endpoints."""

    def __init__(self, endpoints: Sequence[Endpoint], index: ModelIndex) -> None:
        self._endpoints, self._index = endpoints, index

    def unknown(self, name: str, scope: Scope, endpoint: str | None = None) -> ProxyError:
        """The error for a name without candidates: a 404 only if all lists could be loaded.

        Only endpoints that the client may use count; if it named one, only that one.
        """
        name = name[:LONGEST_SHOWN_NAME]
        endpoints = [
            known
            for known in self._endpoints
            if endpoint in (None, known.name) and known.is_open_to(scope)
        ]
        errors = [known.error for known in endpoints if known.error]
        # With one endpoint its own error says more than a list of reasons with one entry.
        if len(endpoints) == 1 and errors:
            return named(endpoints[0].name, errors[0])
        if errors:
            return AllEndpointsFailed(name, self.reasons([], scope))
        if endpoints and not any(map(_offers_something, endpoints)):
            return Unavailable(
                "No models are available right now.", retry_after=_NO_MODELS_RETRY_AFTER
            )
        ids = _available_ids(self._index.visible_to(scope), endpoints)
        return ModelNotFound(name, _near(name, ids) or ids[:_NEAR_NAMES])

    def beyond_places(
        self, name: str | None, scope: Scope, excluded: Sequence[Candidate]
    ) -> PlacesExcluded:
        """The refusal, which names what would have answered, and a few models that may answer."""
        what = "this request" if name is None else f"`{name[:LONGEST_SHOWN_NAME]}`"
        elsewhere = {
            f"{candidate.endpoint.name} ({candidate.endpoint.place_of(candidate.models[0])})": None
            for candidate in excluded
        }
        visible = self._index.visible_to(scope).listing
        listed = [model["id"] for model in visible if is_available(model)][:_NEAR_NAMES]
        hint = f" Models that may answer: {', '.join(listed)}." if listed else ""
        return PlacesExcluded(
            scope, f"; {what} would be answered by {', '.join(elsewhere)} only.{hint}"
        )

    def reasons(self, candidates: Sequence[Candidate], scope: Scope) -> dict[str, str]:
        """The reasons why the other endpoints are not candidates, by the endpoint's name."""
        if len(self._endpoints) == 1:
            return {}
        present = {candidate.endpoint.name for candidate in candidates}
        return {
            endpoint.name: _reason(endpoint)
            for endpoint in self._endpoints
            if endpoint.name not in present and endpoint.is_open_to(scope)
        }

    def nearest(self, name: str) -> list[str]:
        """The ids of available models whose names are like this one, the nearest first."""
        return _near(name, _available_ids(self._index.visible_to(EVERYTHING), self._endpoints))


def _available_ids(visible: VisibleModels, endpoints: Sequence[Endpoint]) -> list[str]:
    """The available models of some endpoints, by the ids that clients see."""
    return [
        visible.short_ids.get(full, full)
        for full, serving in visible.serving.items()
        if not set(endpoints).isdisjoint(serving) and is_available(visible.models[full])
    ]


def _near(name: str, ids: Sequence[str]) -> list[str]:
    return get_close_matches(name, ids, _NEAR_NAMES, _NEAR_CUTOFF)


def _offers_something(endpoint: Endpoint) -> bool:
    return endpoint.upstream.offers_any or any(map(is_available, endpoint.models().values()))


def _reason(endpoint: Endpoint) -> str:
    if endpoint.error:
        return f"its model list is unavailable: {str(endpoint.error).rstrip('.')}"
    return "does not offer it"
