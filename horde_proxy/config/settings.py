"""The settings: their names, types, defaults, and what has to be true of them together."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.key_digest import digest_of_setting
from horde_proxy.prompts.formats import FORMATS
from horde_proxy.upstreams.kinds import KINDS

SHORTEST_KEY = 16
STAND_IN = "sk-no-key"
Seconds = Annotated[float, Field(gt=0)]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host name or address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _sendable(key: str) -> str:
    """A key as it is; one that no header can carry would show up in the error of the sending."""
    if not key.isascii() or not key.isprintable():
        raise ValueError("it has characters that no header can carry, such as a line's end")
    return key


def _http_url(url: str) -> str:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        # The exception would show the password, or the part of it that is in brackets.
        raise ValueError("its host is none; in a password write [ ] and the like with %") from None
    if not url.startswith(("http://", "https://")) or not host:
        raise ValueError("write it with http:// or https:// and a host")
    if " " in url or not url.isprintable():
        raise ValueError("it has characters that no url can have")
    try:
        _ = urlsplit(url).port
    except ValueError:
        # The exception would show a part of a password with a slash in it.
        raise ValueError("its port is no number up to 65535") from None
    return url


def _known_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"use one of: {', '.join(KINDS)}")
    return kind


SentKey = Annotated[str, AfterValidator(_sendable)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


class ServerSettings(Section):
    """How the proxy listens and how long it waits."""

    bind: str = "127.0.0.1:8080"
    places: Annotated[int, Field(ge=1, le=10_000)] = 1000
    max_body: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
    max_upload: Annotated[int, Field(ge=1024)] = 512 * 1024 * 1024
    timeout: Seconds = 280
    stream_timeout: Seconds = 1200
    keepalive: Literal["chunk", "comment", "off"] = "chunk"
    keepalive_interval: Seconds = 10
    grace: Annotated[float, Field(ge=0)] = 30
    reattach: bool = True
    reattach_window: Annotated[float, Field(ge=0)] = 60
    cancel_grace: Annotated[float, Field(ge=0)] = 10
    loop_limit: Annotated[int, Field(ge=0)] = 30
    log_format: Literal["text", "json"] = "text"
    trusted_proxies: list[str] = []
    strict: bool = False
    max_n: Annotated[int, Field(ge=1, le=20)] = 4

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: list[str]) -> list[str]:
        for proxy in proxies:
            try:
                ip_network("0.0.0.0/0" if proxy == "*" else proxy)
            except ValueError as exc:
                raise ValueError(
                    f"{proxy!r} is neither an address nor a network such as 10.0.0.0/8"
                ) from exc
        return proxies

    @field_validator("bind")
    @classmethod
    def _address(cls, bind: str) -> str:
        host, _, port = bind.rpartition(":")
        if "," in bind:
            raise ValueError("one address only")
        if bind.startswith(("unix:", "fd://")):
            return bind
        if not re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:.%\w]+\]", host, re.ASCII):
            raise ValueError("write it as HOST:PORT, for example 127.0.0.1:8080, or unix:PATH")
        if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
            raise ValueError("write it as HOST:PORT, for example 127.0.0.1:8080, or unix:PATH")
        return bind

    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return self.bind.startswith(("unix:", "fd://")) or is_loopback(
            self.bind.rpartition(":")[0].strip("[]")
        )


class KeySettings(Section):
    """One client's key: plain, or "sha256:" and the digest in hexadecimal, and what it may do.

    Models are globs, endpoints names; an empty list allows all. Days are UTC's. `horde_key` pays
    on the horde instead of the proxy's own; `admin` may see everybody's requests and usage.
    """

    key: Annotated[str, Field(repr=False)]
    models: list[str] = []
    endpoints: list[str] = []
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    concurrent: Annotated[int, Field(ge=1)] | None = None
    tokens_per_day: Annotated[int, Field(ge=1)] | None = None
    kudos_per_day: Annotated[float, Field(gt=0)] | None = None
    horde_key: Annotated[SentKey | None, Field(repr=False)] = None
    admin: bool = False

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        return {"key": given} if isinstance(given, str) else given

    @field_validator("key")
    @classmethod
    def _usable(cls, key: str) -> str:
        digest = key.removeprefix("sha256:")
        if digest != key and not re.fullmatch("[0-9a-fA-F]{64}", digest):
            raise ValueError("sha256: wants 64 hexadecimal digits")
        if key != _sendable(key).strip():
            raise ValueError("it has spaces at an end, which clients do not send")
        if key.lower().startswith(STAND_IN):
            raise ValueError(f"{STAND_IN}... is what clients without a key send")
        if len(key) < SHORTEST_KEY:
            raise ValueError(f"it is shorter than {SHORTEST_KEY} characters")
        return key


class AccessSettings(Section):
    """Who may use the proxy, and whose horde key pays.

    open: everybody, on the proxy's key. keys: who sends one of `keys`, or one that
    `horde-proxy keys add` made. passthrough: everybody, on the horde key that each client sends.
    Not set: open, and only this machine may be listened to. `admins` are the names of keys that
    may see everybody's requests. `database`: where made keys and the usage of all are kept, in
    SQLite or PostgreSQL; not set: a file in the state directory, in mode keys alone.
    """

    mode: Literal["open", "keys", "passthrough"] | None = None
    keys: Annotated[dict[str, KeySettings], Field(repr=False)] = {}
    admins: list[str] = []
    database: Annotated[str | None, Field(repr=False)] = None

    def database_url(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """Where keys and usage are kept; None: in memory."""
        if self.database or self.mode != "keys":
            return self.database
        home = environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
        folder = environ.get("STATE_DIRECTORY", "").partition(":")[0] or f"{home}/horde-proxy"
        return f"sqlite:///{folder}/ledger.db"

    @field_validator("database")
    @classmethod
    def _known_database(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not url.startswith(("sqlite:///", "postgresql://")):
            raise ValueError("write it as sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME")
        if url.startswith("sqlite:///:memory:") or url in ("sqlite:///", "sqlite:////"):
            raise ValueError("name a file: sqlite:///PATH, with four slashes for one from the root")
        if url.startswith("postgresql") and find_spec("psycopg") is None:
            raise ValueError("psycopg is missing: pip install 'horde-proxy[postgres]'")
        return url


class EndpointSettings(Section):
    """One server that answers. Of several that offer a model, the lowest `priority` is asked.

    Within a priority requests are shared out by `weight`. `models`: globs of its own names, empty
    for all; `prefix` is put before the names that clients see. `timeout` is in seconds between
    bytes. A horde without `url` and `api_key` is the one under [horde].
    """

    url: Annotated[Annotated[str, AfterValidator(_http_url)] | None, Field(repr=False)] = None
    type: Annotated[str, AfterValidator(_known_kind)] = "openai"
    api_key: Annotated[SentKey | None, Field(repr=False)] = None
    name: str | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0
    priority: int = 0
    models: list[str] = []
    prefix: str = ""
    timeout: Seconds = 300
    headers: Annotated[dict[str, str], Field(repr=False)] = {}

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
                raise ValueError(f"{name!r} is no name of a header")
            if not value.isascii() or not value.isprintable():
                raise ValueError(f"the value of {name!r} has characters that no header can carry")
        return headers

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[\w.:-]{1,64}", name, re.ASCII):
            raise ValueError("a name has up to 64 letters, digits and . : _ -")
        return name

    @model_validator(mode="after")
    def _has_a_url(self) -> EndpointSettings:
        if self.url is None and KINDS[self.type].needs_url:
            raise ValueError("an endpoint needs a url")
        return self

    def label(self) -> str:
        """Its name, or else its host and port."""
        host = urlsplit(self.url or "").netloc.rpartition("@")[2]
        return self.name or (host if KINDS[self.type].needs_url else "") or self.type


class RoutingSettings(Section):
    """When another endpoint is asked, in seconds.

    An endpoint that fails is left alone for `cooldown`, doubled each time up to
    `longest_cooldown`. A horde whose wait would be longer than `max_wait` comes after the model's
    [fallbacks]. `models_ttl`: how long an endpoint's models are taken to stay the same.
    """

    cooldown: Seconds = 1
    longest_cooldown: Seconds = 60
    max_wait: Seconds | None = None
    models_ttl: Seconds = 60


class HordeSettings(Section):
    """The horde that answers, and what is asked of it."""

    url: Annotated[str, AfterValidator(_http_url)] = "https://aihorde.net/api"
    api_key: Annotated[SentKey, Field(repr=False)] = ANONYMOUS_KEY
    contact: str = "https://horde-proxy.invalid"
    connect_timeout: Seconds = 5
    read_timeout: Seconds = 20
    default_max_tokens: Annotated[int, Field(ge=16, le=131_072)] = 4096
    default_completion_tokens: Annotated[int, Field(ge=16, le=131_072)] = 256
    segments: bool = True
    first_segment: Annotated[int, Field(ge=0)] = 128
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    tool_retries: Annotated[int, Field(ge=0, le=10)] = 1
    guided_leaves: Annotated[int, Field(ge=0, le=100)] = 12
    max_kudos_per_request: Annotated[float, Field(gt=0)] | None = None
    placeholders: bool = True
    validated_backends: bool = True
    trusted_workers: bool = False
    slow_workers: bool = True
    least_speed: Annotated[float, Field(ge=0)] = 0
    allow_workers: list[str] = []
    deny_workers: list[str] = []
    address_limits: list[str] = ["2/second", "90/minute"]
    key_limits: list[str] = ["2/second"]
    webhook_url: str | None = None
    cache_ttl: Seconds = 30

    @field_validator("address_limits", "key_limits")
    @classmethod
    def _limits(cls, limits: list[str]) -> list[str]:
        for each in limits:
            if not re.fullmatch(r"[1-9][0-9]*/(?:second|minute|hour|day)", each):
                raise ValueError(f"{each!r}: write it as 2/second or 90/minute")
        return limits

    @field_validator("webhook_url")
    @classmethod
    def _https_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith("https://"):
            raise ValueError("the horde delivers to https:// only")
        return url


class StatsSettings(Section):
    """What is told of the horde under /v1/horde, in seconds.

    `horde_api_cache_ttl`: how old the horde's models, workers and uses may be; those of text that
    chats go by are never older than `horde.cache_ttl`. `horde_api_timeout`: how long one fetch may
    take. `hydrate`: keep them fresh in the background, from `hydrate_delay` after the first
    request on, each `hydrate_interval` and up to `hydrate_jitter` more.

    `text_reference` (a db.json) and `image_reference` (a stable_diffusion.json) are the URL or
    the path of a model reference; without one the names alone tell of the models. It is looked at
    again after `reference_ttl`, and a fetched one is kept in `cache_directory`; not set: the
    user's cache directory.
    """

    horde_api_cache_ttl: Seconds = 60
    horde_api_timeout: Seconds = 30
    hydrate: bool = True
    hydrate_interval: Seconds = 50
    hydrate_delay: Annotated[float, Field(ge=0)] = 5
    hydrate_jitter: Annotated[float, Field(ge=0)] = 5
    text_reference: str | None = None
    image_reference: str | None = None
    reference_ttl: Seconds = 86400
    cache_directory: str | None = None

    def directory(self, environ: Mapping[str, str] = os.environ) -> Path:
        """Where fetched references are kept."""
        if self.cache_directory:
            return Path(self.cache_directory).expanduser()
        given = environ.get("CACHE_DIRECTORY", "").partition(":")[0]
        home = environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        return Path(given or f"{home}/horde-proxy")


class CacheSettings(Section):
    """What several proxies share with a Redis: the horde's paces, and what it told last."""

    redis_url: Annotated[str | None, Field(repr=False)] = None
    redis_key_prefix: str = "horde-proxy"

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not url.startswith(("redis://", "rediss://", "redis+unix://")):
            raise ValueError("write it as redis://HOST:PORT/DATABASE")
        if find_spec("redis") is None:
            raise ValueError("the package redis is missing: pip install 'horde-proxy[redis]'")
        return url


class PrivateHordeSettings(Section):
    """The horde inside the proxy's own process, for workers of one's own.

    `strict`: it has the real one's limits of submits and asks for kudos upfront.
    """

    enabled: bool = False
    strict: bool = False
    api_key: Annotated[Annotated[SentKey, Field(min_length=8)] | None, Field(repr=False)] = None


class Config(Section):
    """All settings. Unknown ones are refused."""

    server: ServerSettings = ServerSettings()
    access: AccessSettings = AccessSettings()
    horde: HordeSettings = HordeSettings()
    private_horde: PrivateHordeSettings = PrivateHordeSettings()
    cache: CacheSettings = CacheSettings()
    stats: StatsSettings = StatsSettings()
    endpoints: list[EndpointSettings] = []
    routing: RoutingSettings = RoutingSettings()
    fallbacks: dict[str, list[str]] = {}
    aliases: dict[str, str] = {}
    formats: dict[str, str] = {}
    tool_styles: dict[str, Literal["hermes", "llama3", "mistral", "none"]] = {}

    @model_validator(mode="after")
    def _guarded(self) -> Config:
        mode, keys = self.access.mode, self.access.keys
        if unknown := set(self.access.admins) - set(keys):
            raise ValueError(f"access.admins: there is no key {sorted(unknown)[0]!r}")
        if twice := _same_keys(keys):
            raise ValueError(f"access.keys: {' and '.join(twice)} are the same key")
        if keys and mode != "keys":
            raise ValueError("[access.keys] is not used unless access.mode = 'keys'")
        if mode is None and not self.server.is_local():
            raise ValueError(
                f"server.bind = {self.server.bind!r} lets others in: set access.mode to 'keys' "
                "(with [access.keys]), to 'passthrough' (each client pays with its own horde key) "
                "or to 'open' (everybody spends yours)"
            )
        return self

    @model_validator(mode="after")
    def _distinct(self) -> Config:
        _number_unnamed(self.endpoints)
        private = ["private"] if self.private_horde.enabled else []
        names = [*(each.label() for each in self.endpoints), *private]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"two endpoints are called {sorted(twice)[0]!r}: give each a name of its own"
            )
        known = {*names, "horde"}
        for key, settings in self.access.keys.items():
            if unknown := set(settings.endpoints) - known:
                raise ValueError(
                    f"access.keys.{key}.endpoints: there is no endpoint {sorted(unknown)[0]!r}"
                )
        return self

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, formats: dict[str, str]) -> dict[str, str]:
        for glob, name in formats.items():
            if name not in FORMATS:
                raise ValueError(f"{glob!r}: no format {name!r}; there are: {', '.join(FORMATS)}")
        return formats


def _same_keys(keys: Mapping[str, KeySettings]) -> list[str]:
    """The names of the first keys that are one: the limits of which of them should count?"""
    names: dict[str, list[str]] = {}
    for name, each in keys.items():
        names.setdefault(digest_of_setting(each.key), []).append(name)
    return next((found for found in names.values() if len(found) > 1), [])


def _number_unnamed(endpoints: list[EndpointSettings]) -> None:
    """Endpoints on one host that have no names are called host, host-2 and so on."""
    taken = [each.name for each in endpoints if each.name]
    for each in endpoints:
        if each.name is None:
            label, number = each.label(), 1
            while (name := label if number == 1 else f"{label}-{number}") in taken:
                number += 1
            each.name = name
            taken.append(name)
