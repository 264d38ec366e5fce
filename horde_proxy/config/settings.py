"""The settings: their names, types, defaults, and what has to be true of them together."""

from __future__ import annotations

import re
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Annotated, Literal

from limits import parse_many
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from horde_proxy.prompts.formats import FORMATS

ANONYMOUS_KEY = "0000000000"
SHORTEST_KEY = 16
Seconds = Annotated[float, Field(gt=0)]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host name or address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class ServerSettings(Section):
    """How the proxy listens and how long it waits."""

    bind: str = "127.0.0.1:8080"
    places: Annotated[int, Field(ge=1, le=10_000)] = 1000
    max_body: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
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


class AccessSettings(Section):
    """Who may use the proxy, and whose horde key pays.

    open: everybody, on the proxy's key. keys: who sends one of `keys` (by name; plain, or
    "sha256:" and the digest in hexadecimal), on the proxy's key. passthrough: everybody, on the
    horde key that each client sends. Not set: open, and only this machine may be listened to.
    `admins` are the names of keys that may see everybody's requests.
    """

    mode: Literal["open", "keys", "passthrough"] | None = None
    keys: Annotated[dict[str, str], Field(repr=False)] = {}
    admins: list[str] = []

    @field_validator("keys")
    @classmethod
    def _usable_keys(cls, keys: dict[str, str]) -> dict[str, str]:
        for name, key in keys.items():
            digest = key.removeprefix("sha256:")
            if digest != key and not re.fullmatch("[0-9a-fA-F]{64}", digest):
                raise ValueError(f"the key {name!r}: sha256: wants 64 hexadecimal digits")
            if not key.isascii():
                raise ValueError(f"the key {name!r} has characters that no header can carry")
            if len(key) < SHORTEST_KEY:
                raise ValueError(f"the key {name!r} is shorter than {SHORTEST_KEY} characters")
        return keys


class HordeSettings(Section):
    """The horde that answers, and what is asked of it."""

    url: str = "https://aihorde.net/api"
    api_key: Annotated[str, Field(repr=False)] = ANONYMOUS_KEY
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

    @field_validator("url")
    @classmethod
    def _http_url(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("write it with http:// or https://")
        return url

    @field_validator("address_limits", "key_limits")
    @classmethod
    def _limits(cls, limits: list[str]) -> list[str]:
        for each in limits:
            try:
                parse_many(each)
            except ValueError:
                raise ValueError(f"{each!r}: write it as 2/second or 90/minute") from None
        return limits

    @field_validator("webhook_url")
    @classmethod
    def _https_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith("https://"):
            raise ValueError("the horde delivers to https:// only")
        return url


class CacheSettings(Section):
    """What several proxies share: with a Redis, they keep the horde's paces together."""

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
    api_key: Annotated[str | None, Field(repr=False, min_length=8)] = None


class Config(Section):
    """All settings. Unknown ones are refused."""

    server: ServerSettings = ServerSettings()
    access: AccessSettings = AccessSettings()
    horde: HordeSettings = HordeSettings()
    private_horde: PrivateHordeSettings = PrivateHordeSettings()
    cache: CacheSettings = CacheSettings()
    aliases: dict[str, str] = {}
    formats: dict[str, str] = {}
    tool_styles: dict[str, Literal["hermes", "llama3", "mistral", "none"]] = {}

    @model_validator(mode="after")
    def _guarded(self) -> Config:
        mode, keys = self.access.mode, self.access.keys
        if mode == "keys" and not keys:
            raise ValueError("access.mode = 'keys' wants at least one key under [access.keys]")
        if unknown := set(self.access.admins) - set(keys):
            raise ValueError(f"access.admins: there is no key {sorted(unknown)[0]!r}")
        if keys and mode != "keys":
            raise ValueError("[access.keys] is not used unless access.mode = 'keys'")
        if mode is None and not self.server.is_local():
            raise ValueError(
                f"server.bind = {self.server.bind!r} lets others in: set access.mode to 'keys' "
                "(with [access.keys]), to 'passthrough' (each client pays with its own horde key) "
                "or to 'open' (everybody spends yours)"
            )
        return self

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, formats: dict[str, str]) -> dict[str, str]:
        for glob, name in formats.items():
            if name not in FORMATS:
                raise ValueError(f"{glob!r}: no format {name!r}; there are: {', '.join(FORMATS)}")
        return formats
