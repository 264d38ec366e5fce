"""The horde's answers about models and workers, read leniently. Pure.

Absent and null fields get their defaults, unknown fields are ignored, a float is accepted for any
number. An element that cannot be read is left out and counted; others are unaffected. Meanings and
units of the fields are those of AI-Horde 5.1, recorded in tests/data/captures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)

from horde_proxy.aihorde.names import is_name
from horde_proxy.numbers import MOST, finite

T = TypeVar("T")
R = TypeVar("R", bound=BaseModel)


def _named(value: str) -> str:
    if not is_name(value):
        raise ValueError("a name must consist of printable characters")
    return value


def _whole(value: Any) -> Any:
    """A float as an int: the horde writes counts both ways, e.g. "jobs": 0.0."""
    # NaN and infinity are left to pydantic, which refuses them: int() would raise another error.
    return int(value) if isinstance(value, float) and math.isfinite(value) else value


def _names(value: Any) -> Any:
    """A list without elements that cannot be names: workers may advertise anything."""
    return [name for name in value if is_name(name)] if isinstance(value, list | tuple) else value


Name = Annotated[str, AfterValidator(_named)]
Number = Annotated[float, Field(ge=0, le=MOST)]
Whole = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=MOST)]


class ReadDocument(NamedTuple, Generic[T]):
    """The elements that could be read, and how many were left out."""

    value: T
    left_out: int


class _Record(BaseModel):
    # By name as well as by alias, so that a record that was dumped either way can be read again.
    model_config = ConfigDict(frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        # "team": {"name": null} and "uptime": null are usual (capture get_workers__type-text).
        if not isinstance(data, Mapping):
            return data
        return {key: value for key, value in data.items() if value is not None}


class HordeModelStatus(_Record):
    """One model of `GET /v2/status/models`.

    `count` is the number of threads, not of workers. `queued` is in tokens or megapixelsteps.
    `jobs` counts waiting and running jobs. `eta` is in seconds, and 10000 if the horde knows no
    speed. `performance` is in tokens/s (text) or pixelsteps/s (image); 0 and None mean that it was
    not measured.
    """

    name: Name
    count: Whole = 0
    performance: Number | None = None
    queued: Number | None = None
    jobs: Number | None = None
    eta: Whole | None = None
    type: str = ""


class HordeModelStatsResponse(_Record):
    """`GET /v2/stats/{text,img}/models`: the usage by advertised name, in three periods."""

    day: dict[str, Whole] = {}
    month: dict[str, Whole] = {}
    total: dict[str, Whole] = {}


class KudosDetails(_Record):
    """The kudos that a worker got for generating and for being online."""

    generated: FiniteFloat | None = None
    uptime: FiniteFloat | None = None


class Team(_Record):
    """The team of a worker; null for most workers."""

    name: str | None = None
    id: str | None = None


class HordeWorker(_Record):
    """One worker of `GET /v2/workers`.

    `uptime` is in seconds, `performance` is text with a unit. The horde lists only online workers,
    so the default of `online` is True.
    """

    # `performance` is text, as in "9.5 tokens per second"; a plain number is read as text too.
    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: Name
    name: str = ""
    type: str = ""
    performance: str = ""
    requests_fulfilled: Whole = 0
    kudos_rewards: FiniteFloat = 0.0
    kudos_details: KudosDetails = KudosDetails()
    threads: Whole = 1
    uptime: Whole = 0
    uncompleted_jobs: Whole = 0
    maintenance_mode: bool = False
    nsfw: bool | None = None
    trusted: bool = False
    flagged: bool = False
    online: bool = True
    team: Team = Team()
    bridge_agent: str = ""
    models: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    # Image workers have the next seven and the last field, text workers the two lengths (tokens).
    max_pixels: Whole | None = None
    megapixelsteps_generated: Number | None = None
    img2img: bool | None = None
    painting: bool | None = None
    lora: bool | None = None
    controlnet: bool | None = None
    sdxl_controlnet: bool | None = None
    max_length: Whole | None = None
    max_context_length: Whole | None = None
    info: str | None = None
    # The horde writes a hyphen, which no Python name can have.
    post_processing: bool | None = Field(default=None, alias="post-processing")


def read_statuses(items: Any) -> ReadDocument[list[HordeModelStatus]]:
    """The models of `GET /v2/status/models`. Items may also be records already."""
    return _read(HordeModelStatus, items)


def read_workers(items: Any) -> ReadDocument[list[HordeWorker]]:
    """The workers of `GET /v2/workers`. Items may also be records already."""
    return _read(HordeWorker, items)


def read_stats(document: Any) -> ReadDocument[HordeModelStatsResponse]:
    """The usage of `GET /v2/stats/{text,img}/models`. Bad names and numbers are left out."""
    if isinstance(document, HordeModelStatsResponse):
        return ReadDocument(document, 0)
    if not isinstance(document, Mapping):
        return ReadDocument(HordeModelStatsResponse(), 1)
    periods = {name: _counts(document.get(name)) for name in ("day", "month", "total")}
    return ReadDocument(
        HordeModelStatsResponse(**{name: read.value for name, read in periods.items()}),
        sum(read.left_out for read in periods.values()),
    )


def _read(kind: type[R], items: Any) -> ReadDocument[list[R]]:
    if not isinstance(items, list | tuple):
        return ReadDocument([], 1)
    records = []
    for item in items:
        # One by one: validated as one list, a single bad worker would cost all others.
        try:
            records.append(kind.model_validate(item))
        except ValidationError:
            continue
    return ReadDocument(records, len(items) - len(records))


def _counts(period: Any) -> ReadDocument[dict[str, int]]:
    if period is None:  # like any null field, not an error
        return ReadDocument({}, 0)
    if not isinstance(period, Mapping):
        return ReadDocument({}, 1)
    # By hand, not by pydantic: a bad count costs its name only, not the whole period.
    counts = {
        name: int(count)
        for name, count in period.items()
        if is_name(name) and finite(count) is not None
    }
    return ReadDocument(counts, len(period) - len(counts))
