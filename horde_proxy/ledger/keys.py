"""A client's key: its name and its rights, in words as well, and how a new one is made. No I/O."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from horde_proxy.aihorde.names import matches_glob
from horde_proxy.key_rules import LEAST_WEIGHT, MOST_WEIGHT, key_name
from horde_proxy.places import PLACES, Binding, EndpointPlace

LIMITS = {
    "requests_per_minute": "requests a minute",
    "concurrent": "at a time",
    "tokens_per_day": "tokens a day",
    "kudos_per_day": "kudos a day",
    "images_per_day": "images a day",
}
"""The fields of a key that are limits, and what their numbers count."""


@dataclass(frozen=True)
class ClientKey:
    """A key's name and rights. As a limit, None means no limit; as a list, () means all.

    `models` are globs with * and ?, in upper or lower case alike. `concurrent` is the number of
    requests at a time. Days are UTC days. `weight` says how many turns it gets where requests wait
    in line, beside a key with 1. `horde_key` pays on the horde instead of the proxy's own key. An
    `admin` may see the requests and usage of all keys. `created` is unix seconds, 0 for a
    configured key. Nothing that the key sends leaves its `places`.
    """

    name: str
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    concurrent: int | None = None
    tokens_per_day: int | None = None
    kudos_per_day: float | None = None
    images_per_day: int | None = None
    weight: float = 1.0
    horde_key: str | None = field(default=None, repr=False)
    admin: bool = False
    created: int = 0
    places: tuple[str, ...] = ()

    @property
    def allows_all_models(self) -> bool:
        """Whether the key may use every model, even one that a request does not name."""
        return not self.models

    def allows_model(self, name: str) -> bool:
        """Whether the key may use the model of this name."""
        return not self.models or any(matches_glob(name, glob) for glob in self.models)

    def allows_endpoint(self, name: str, place: EndpointPlace | None) -> bool:
        """Whether the key may use the endpoint of this name, which is at this place."""
        is_within = not self.places or place in self.places
        return is_within and (not self.endpoints or name in self.endpoints)

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """What binds all requests with the key; empty where they may go anywhere."""
        if not self.places:
            return ()
        return (Binding(f"the key `{self.name}`", frozenset(self.places)),)

    def without_places(self) -> ClientKey:
        """The same key, bound to no place."""
        return replace(self, places=()) if self.places else self


HIGHEST_LIMIT = 10**15
"""Of requests, tokens, images or kudos; databases store whole numbers up to 2 ** 63."""


def check_key(key: ClientKey) -> None:
    """Raises ValueError for a name or rights that the settings would refuse as well."""
    key_name(key.name)
    for field_name, unit in LIMITS.items():
        value = getattr(key, field_name)
        # First: math.isfinite cannot take a whole number of 400 digits.
        if value is not None and HIGHEST_LIMIT < value < math.inf:
            raise ValueError(f"a limit is {HIGHEST_LIMIT:,} {unit} at most: leave it out for none")
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"a limit of {value:g} {unit} is not above 0: leave it out for none")
    if not LEAST_WEIGHT <= key.weight <= MOST_WEIGHT:
        raise ValueError(f"a weight is from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}")
    if unknown := set(key.places) - set(PLACES):
        raise ValueError(f"there is no place {min(unknown)!r}; the places are {', '.join(PLACES)}")
    if key.horde_key is not None and not (key.horde_key.isascii() and key.horde_key.isprintable()):
        raise ValueError(
            "the horde key has characters not allowed in an HTTP header, such as a newline"
        )


def limits_in_words(key: ClientKey) -> Iterator[str]:
    """What a key may do, limit by limit: "20 requests a minute", "models llama*"."""
    for field_name, unit in LIMITS.items():
        value = getattr(key, field_name)
        if value is not None:
            yield f"{value:g} {unit}"
    for field_name in ("models", "endpoints", "places"):
        names = getattr(key, field_name)
        if names:
            yield f"{field_name} {', '.join(names)}"
    if key.weight != 1:
        yield f"weight {key.weight:g}"
    if key.horde_key:
        yield "a horde key of its own"


def new_key() -> str:
    """A key that nobody can guess: "hp-" and 256 random bits."""
    return "hp-" + secrets.token_urlsafe(32)
