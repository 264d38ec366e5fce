"""What a client may use: models, endpoints and places. Every candidate has passed its scope.

    key (models, endpoints, places) --> bound by the header, the body, an alias --> Scope
        Endpoint.is_open_to(scope) alone decides. VisibleModels and Candidates call it, so that no
        list, fallback or second attempt has an endpoint beyond the scope

A scope can only get narrower during a request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from horde_proxy.errors import Refused
from horde_proxy.places import Binding, EndpointPlace, common_places


class Scope(Protocol):
    """The models and endpoints that a client may use; hashable."""

    @property
    def allows_all_models(self) -> bool:
        """Whether the client may use every model, also in requests that name no model."""

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """The bindings of the client's request to places; empty: it may go anywhere."""

    def allows_model(self, name: str) -> bool:
        """Whether the client may use a model, by the name that clients see."""

    def allows_endpoint(self, name: str, place: EndpointPlace | None) -> bool:
        """Whether the client may use an endpoint at a place; None: the place is not known.

        A scope with bindings allows no endpoint whose place is not known.
        """

    def without_places(self) -> Scope:
        """The same without bindings, to find out what a binding excludes. For messages only."""


class Everything:
    """The scope of a client without limits."""

    allows_all_models = True
    bindings: tuple[Binding, ...] = ()

    def allows_model(self, name: str) -> bool:
        return True

    def allows_endpoint(self, name: str, place: EndpointPlace | None) -> bool:
        return True

    def without_places(self) -> Scope:
        return self


EVERYTHING = Everything()


@dataclass(frozen=True)
class BoundScope:
    """A scope that is limited to `places` as well. `bindings` are all that led to them.

    Two are equal where they allow the same: visible models are cached by scope, and clients must
    not be able to fill that cache with scopes that differ in words only.
    """

    scope: Scope
    places: frozenset[str]
    bindings: tuple[Binding, ...] = field(compare=False)

    @property
    def allows_all_models(self) -> bool:
        return self.scope.allows_all_models

    def allows_model(self, name: str) -> bool:
        return self.scope.allows_model(name)

    def allows_endpoint(self, name: str, place: EndpointPlace | None) -> bool:
        return place in self.places and self.scope.allows_endpoint(name, place)

    def without_places(self) -> Scope:
        return self.scope.without_places()


class PlacesExcluded(Refused):
    """The endpoints that would answer are at places where the request must not go."""

    code = "places_excluded"

    def __init__(self, scope: Scope, rest: str) -> None:
        reasons = " and ".join(map(str, scope.bindings))
        super().__init__(f"{reasons[:1].upper()}{reasons[1:]}{rest}")


def bound(scope: Scope, *bindings: Binding) -> Scope:
    """The scope within further bindings. Raises PlacesExcluded where no place is left."""
    new = tuple(binding for binding in bindings if binding not in scope.bindings)
    if not new:
        return scope
    inner = scope.scope if isinstance(scope, BoundScope) else scope
    all_bindings = (*scope.bindings, *new)
    narrowed = BoundScope(inner, common_places(all_bindings), all_bindings)
    if not narrowed.places:
        raise PlacesExcluded(narrowed, ": no place is in all of them, so that nothing may answer.")
    return narrowed
