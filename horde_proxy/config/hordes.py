"""[horde], [private_horde], [stats] and [cache]: all that is about hordes.

What the private horde and hordes at other addresses take over from [horde] is decided in
horde_proxy.app.horde.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.config.values import (
    HttpUrl,
    Seconds,
    SecondsOrZero,
    Section,
    SentKey,
    WebhookUrl,
    known_database,
)
from horde_proxy.extras import command_for
from horde_proxy.folders import cache_folder, state_folder

_LIMIT = re.compile(r"[1-9][0-9]*/(?:second|minute|hour|day)")
"""A limit in the notation of the library `limits`, as in "90/minute"."""


_MEMORY = "memory"
_SQLITE = "sqlite:///"
HORDE_THREADS = 96
"""Threads for calls of the private horde that wait: 32 pops of workers, and streams of clients."""


class HordeSettings(Section):
    """The horde that answers, and how chats are made into its requests."""

    url: HttpUrl = "https://aihorde.net/api"
    """The horde's URL."""
    api_key: Annotated[SentKey, Field(repr=False)] = ANONYMOUS_KEY
    """Your key there, or the variable `AI_HORDE_API_KEY`; the default is the anonymous one."""
    contact: str = "https://horde-proxy.invalid"
    """Where the horde's operators find you: sent in the header `Client-Agent`."""
    connect_timeout: Seconds = 5
    """Seconds to connect."""
    read_timeout: Seconds = 20
    """Seconds until the horde answers a call."""
    default_max_tokens: Annotated[int, Field(ge=16, le=131_072)] = 4096
    """`max_tokens` of chats that name none."""
    default_completion_tokens: Annotated[int, Field(ge=16, le=131_072)] = 256
    """`max_tokens` of text completions that name none."""
    segments: bool = True
    """Whether a long answer is a chain of requests; else it is one, shortened if need be."""
    first_segment: Annotated[int, Field(ge=0)] = 128
    """Tokens of a stream's first request, so that text comes early; 0: as long as the others."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often a failed generation is requested again."""
    tool_retries: Annotated[int, Field(ge=0, le=10)] = 1
    """How often a wrong tool call, or JSON that does not fit, is corrected."""
    guided_leaves: Annotated[int, Field(ge=0, le=100)] = 12
    """The most values that guided filling asks for one by one; 0 turns it off."""
    chat_jobs: bool = True
    """Whether chats go as chats to workers of your own horde that know their model's template."""
    describe_images: bool = True
    """Whether the horde's alchemists describe the pictures in chats for models that see none.
    `false`: older pictures are left out, and one in the newest message is a 400."""
    describe_seconds: Seconds = 60
    """Seconds that the descriptions of a chat's pictures may take; without them it goes on."""
    images: bool = False
    """Whether text models are offered a function that makes pictures: `generate_image`. A request's
    own `horde.images` counts before it."""
    max_kudos_per_request: Annotated[float, Field(gt=0)] | None = None
    """The most kudos that one answer may cost."""
    placeholders: bool = True
    """Whether workers that know their model's chat template fill it in themselves."""
    validated_backends: bool = True
    """Only workers with a backend that the horde has validated."""
    trusted_workers: bool = False
    """Only workers that the horde trusts."""
    slow_workers: bool = True
    """Also workers that the horde calls slow."""
    least_speed: Annotated[float, Field(ge=0)] = 0
    """Only workers that write so many tokens a second."""
    allow_workers: list[str] = []
    """Only these workers, by name or id; empty: all."""
    deny_workers: list[str] = []
    """Never these workers, by name or id."""
    address_limits: list[str] = ["2/second", "90/minute"]
    """How fast requests are submitted in all; `[]` for a horde of your own without limits."""
    key_limits: list[str] = ["2/second"]
    """How fast requests are submitted for one horde key."""
    webhook_url: WebhookUrl | None = None
    """Where the horde reaches this proxy (https): it then pushes its results."""
    cache_ttl: Seconds = 30
    """Seconds for which the text models and workers that chats go by are kept."""

    @field_validator("address_limits", "key_limits")
    @classmethod
    def _limits(cls, limits: list[str]) -> list[str]:
        for limit in limits:
            if not _LIMIT.fullmatch(limit):
                raise ValueError(f"{limit!r}: write it as 2/second or 90/minute")
        return limits


class PrivateHordeSettings(Section):
    """A horde inside the proxy's own process, under /api/v2, for workers of your own."""

    enabled: bool = False
    """Whether there is one."""
    strict: bool = False
    """With the public horde's limits of submits, and kudos required upfront."""
    webhooks: Literal["public", "any", "off"] = "public"
    """Which webhooks of requests are called: https on public addresses, `any`, or none. Members of
    a horde with `any` reach http servers of its own network."""
    kudos: Literal["on", "off"] = "on"
    """`off`: all is free, nothing is earned, and the accounts that got least in the last hour come
    first."""
    api_key: Annotated[Annotated[SentKey, Field(min_length=8)] | None, Field(repr=False)] = None
    """The key of its owner and of the owner's workers. Not set: the one in `owner.key`, a file that
    is made beside the database's; without a file of SQLite, a new one at each start."""
    registration: Literal["open", "invitation", "closed"] = "invitation"
    """Who may make an account: everybody, those who were invited, or nobody; `users add` can."""
    anonymous: bool | None = None
    """Whether anybody may use it with the key 0000000000. Not set: only without access.mode, or
    with "open"."""
    anonymous_concurrency: Annotated[int, Field(ge=0, le=10_000)] = 10
    """Results that may wait for all anonymous users of a model together."""
    anonymous_max_length: Annotated[int, Field(ge=16, le=4096)] = 512
    """Tokens of an anonymous request."""
    ledger_days: Annotated[int, Field(ge=0, le=36_500)] = 400
    """Days for which each movement of kudos is kept; older ones become one sum for each account and
    reason. 0: all are kept."""
    picture_bytes: Annotated[int, Field(ge=10_000_000)] = 1_000_000_000
    """Bytes of all pictures that it keeps: those that workers made, for 20 minutes, and sources of
    edits. Beyond that, the oldest go."""
    terms: str | None = None
    """Its terms, in Markdown, at /api/v2/documents/terms. Not set: that there are none."""
    privacy: str | None = None
    """Its privacy policy, in Markdown. Not set: what this software keeps."""
    sponsors: str | None = None
    """Its sponsors, in Markdown. Not set: that there are none."""
    database: Annotated[str | None, Field(repr=False)] = None
    """Where its accounts, workers, requests and kudos are kept: `sqlite:///PATH`,
    `postgresql://...`, or `memory`, which is lost at a restart. Not set: `horde.db` in the state
    folder."""

    def database_url(self) -> str | None:
        """Where the horde is kept; None: in memory."""
        if self.database == _MEMORY:
            return None
        return self.database or horde_file()

    def owner_key_file(self) -> Path | None:
        """The file that holds the owner's key; None where `api_key` does, or there is no file.

        Hosts that share a PostgreSQL do not share their files: each would end the others' keys.
        """
        path = self.database_file()
        return None if path is None or self.api_key is not None else path.parent / "owner.key"

    def database_file(self) -> Path | None:
        """The file of SQLite in which the horde is kept, if it is in one."""
        url = self.database_url() or ""
        if not url.startswith(_SQLITE):
            return None
        return Path(url.removeprefix(_SQLITE).partition("?")[0]).absolute()

    @field_validator("database")
    @classmethod
    def _database(cls, url: str | None) -> str | None:
        return url if url in (None, _MEMORY) else known_database(url)


def horde_file() -> str | None:
    """The URL of the file in which a private horde is kept without other settings."""
    return f"sqlite:///{state_folder()}/horde.db"


class StatsSettings(Section):
    """The horde's data under /v1/horde, and the history of hordes and endpoints."""

    horde_api_cache_ttl: Seconds = 60
    """Seconds for which models, workers and usage are kept."""
    horde_api_timeout: Seconds = 30
    """Seconds that one fetch may take."""
    hydrate: bool = True
    """Whether they are kept fresh in the background, from the first request on."""
    hydrate_interval: Seconds = 50
    """Seconds between two such refreshes."""
    hydrate_delay: SecondsOrZero = 5
    """Seconds from the first request to the first refresh."""
    hydrate_jitter: SecondsOrZero = 5
    """Up to so many seconds are added to each interval, at random."""
    text_reference: str | None = None
    """A reference of text models (`db.json`): URL or path."""
    image_reference: str | None = None
    """A reference of image models (`stable_diffusion.json`): URL or path. Pictures are then made as
    it says that suits a model; else by what a model's name tells."""
    reference_ttl: Seconds = 86400
    """Seconds after which the references are read again."""
    cache_directory: str | None = None
    """Where fetched references are kept. Not set: the cache folder."""
    history_days: Annotated[int, Field(ge=0, le=3650)] = 90
    """Days for which hourly facts of hordes and endpoints are kept; 0 keeps none."""
    history_database: Annotated[str | None, Field(repr=False)] = None
    """Where they are kept: `sqlite:///PATH` or `postgresql://...`. Not set: `history.db` in the
    state folder."""

    def history_url(self) -> str | None:
        """Where hourly facts are kept; None: nowhere."""
        if not self.history_days:
            return None
        return self.history_database or f"sqlite:///{state_folder()}/history.db"

    @field_validator("history_database")
    @classmethod
    def _history_database(cls, url: str | None) -> str | None:
        return url if url is None else known_database(url)

    def directory(self) -> Path:
        """Where fetched references are kept."""
        return Path(self.cache_directory).expanduser() if self.cache_directory else cache_folder()


class CacheSettings(Section):
    """What several proxies share through a Redis: pace, documents, counts of calls, sessions."""

    redis_url: Annotated[str | None, Field(repr=False)] = None
    """`redis://HOST:PORT/DATABASE`; needs the extra `redis`."""
    redis_key_prefix: str = "horde-proxy"
    """What the names of its keys begin with."""

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not url.startswith(("redis://", "rediss://", "redis+unix://")):
            raise ValueError("write it as redis://HOST:PORT/DATABASE")
        if find_spec("redis") is None:
            raise ValueError(f"the package redis is missing; {command_for('redis')}")
        return url
