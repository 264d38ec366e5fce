"""What the facts of the moment mean: which conditions hold, and the notices about them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

_ENOUGH = 1.1
"""Kudos count as enough at so many times the limit: each chat moves them a little up and down."""
_LONGEST_REASON = 300
"""Characters of an error in a notice: phones show about so many."""


class Standing(Enum):
    """How a subject stands."""

    BAD = "a notice is due once it has stayed so for its delay"
    GOOD = "a notice is due if a bad one was sent"
    UNKNOWN = "nothing is due: the endpoint is asleep or paused, or its lists cannot be loaded"


@dataclass(frozen=True)
class Notice:
    """One notice. `event` is its type, e.g. "endpoint.down"; `data` are the facts for programs."""

    event: str
    title: str
    text: str
    is_bad: bool
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """How one subject stands now, and the notices of both turns. `delay` is in seconds."""

    key: str
    standing: Standing
    bad: Notice
    good: Notice
    delay: float = 0.0


@dataclass(frozen=True)
class WatchedEndpoint:
    """An endpoint. `reason` is why it fails, `is_up` whether it answers as far as is known.

    Neither holds while its machine is asleep, or it is paused.
    """

    name: str
    is_up: bool
    reason: str | None = None


@dataclass(frozen=True)
class WatchedModel:
    """A favourite model. `is_gone` None: not known now. `nearest` is the living model like it."""

    name: str
    is_gone: bool | None
    nearest: str | None = None


@dataclass(frozen=True)
class Facts:
    """What is known now. `kudos` are those of each horde's account, None where unknown."""

    endpoints: Sequence[WatchedEndpoint] = ()
    kudos: Mapping[str, float | None] = field(default_factory=dict)
    favourites: Sequence[WatchedModel] = ()


@dataclass(frozen=True)
class NoticeLimits:
    """When a condition becomes a notice: after so many seconds, below so many kudos."""

    after: float = 300.0
    kudos_below: float | None = None
    endpoints: bool = True


def observations(facts: Facts, limits: NoticeLimits) -> Iterator[Observation]:
    """One observation for each subject that notices are sent about."""
    if limits.endpoints:
        for endpoint in facts.endpoints:
            yield _of_endpoint(endpoint, limits.after)
    if limits.kudos_below is not None:
        for horde, kudos in facts.kudos.items():
            yield _of_kudos(horde, kudos, limits.kudos_below)
    for model in facts.favourites:
        yield _of_model(model, limits.after)


def _of_endpoint(facts: WatchedEndpoint, after: float) -> Observation:
    reason = (facts.reason or "").rstrip(".")[:_LONGEST_REASON]
    standing = Standing.GOOD if facts.is_up else Standing.UNKNOWN
    data = {"endpoint": facts.name}
    return Observation(
        f"endpoint {facts.name}",
        Standing.BAD if facts.reason is not None else standing,
        Notice(
            "endpoint.down",
            f"{facts.name} is down",
            f"The endpoint {facts.name} has not answered for {_duration(after)}: {reason}.",
            True,
            {**data, "error": reason},
        ),
        Notice(
            "endpoint.up",
            f"{facts.name} is up again",
            f"The endpoint {facts.name} answers again.",
            False,
            data,
        ),
        after,
    )


def _of_kudos(horde: str, kudos: float | None, below: float) -> Observation:
    known = 0.0 if kudos is None else kudos
    is_enough = known >= below * _ENOUGH
    standing = Standing.BAD if known < below else Standing.GOOD if is_enough else Standing.UNKNOWN
    data = {"endpoint": horde, "kudos": round(known), "below": below}
    return Observation(
        f"kudos {horde}",
        Standing.UNKNOWN if kudos is None else standing,
        Notice(
            "kudos.low",
            f"Kudos are low at {horde}",
            f"The account at {horde} has {known:.0f} kudos left, less than {below:.0f}.",
            True,
            data,
        ),
        Notice(
            "kudos.enough",
            f"Kudos are enough again at {horde}",
            f"The account at {horde} has {known:.0f} kudos.",
            False,
            data,
        ),
    )


def _of_model(facts: WatchedModel, after: float) -> Observation:
    name, nearest = facts.name, facts.nearest
    proposal = f" The nearest model that is there: {nearest}." if nearest else ""
    standing = Standing.BAD if facts.is_gone else Standing.GOOD
    return Observation(
        f"model {name}",
        Standing.UNKNOWN if facts.is_gone is None else standing,
        Notice(
            "model.gone",
            f"{name} is gone",
            f"No endpoint has offered the model {name} for {_duration(after)}.{proposal}",
            True,
            {"model": name, "nearest": nearest},
        ),
        Notice(
            "model.back",
            f"{name} is back",
            f"The model {name} is offered again.",
            False,
            {"model": name},
        ),
        after,
    )


def _duration(seconds: float) -> str:
    """The seconds as people say them: "45 s", "5 min", "2 h"."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
