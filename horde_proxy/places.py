"""Places: who runs the servers that read a prompt, and what may be bound to some of them. Pure.

Each endpoint is at one place. A key, an alias and a request may each be bound to places; a call
goes only where all of these bindings allow it. Which endpoint is where is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

EndpointPlace = Literal["home", "private", "crowd", "paid"]
PLACES: tuple[EndpointPlace, ...] = get_args(EndpointPlace)
"""`home`: one's own network; `private`: workers of people one knows; `crowd`: anybody's machines;
`paid`: a company's servers."""

HEADER = "X-Places"
FIELD = "places"
"""The field of a JSON body that means the same as the header."""


@dataclass(frozen=True)
class Binding:
    """The places to which something is bound. `holder` names it, for messages: "the key `ann`"."""

    holder: str
    places: frozenset[str]

    def __str__(self) -> str:
        return f"{self.holder} allows only {written(self.places)}"


def common_places(bindings: Iterable[Binding]) -> frozenset[str]:
    """The places that all bindings allow."""
    return frozenset(PLACES).intersection(*(binding.places for binding in bindings))


def written(places: Iterable[str], conjunction: str = "or") -> str:
    """Places in a sentence, in the usual order: "home or private"."""
    given = set(places)
    *most, last = [f"`{place}`" for place in PLACES if place in given] or ["no place"]
    return f"{', '.join(most)} {conjunction} {last}" if most else last


def read_places(value: Any) -> frozenset[str]:
    """The places of a header or a field: "home, private", or a list of names.

    Raises ValueError for anything else, so that a mistyped name never means "everywhere".
    """
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"it must be a list of places: {', '.join(PLACES)}")
    places = [name.strip().casefold() for name in names]
    unknown = next((place for place in places if place not in PLACES), None)
    if unknown is not None or not places:
        what = f"there is no place {unknown[:40]!r}" if unknown else "it names no place"
        raise ValueError(f"{what}; the places are {', '.join(PLACES)}")
    return frozenset(places)
