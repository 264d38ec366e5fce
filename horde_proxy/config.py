"""The settings, and where each comes from: defaults < file < environment < flags.

Read by create_app and the command line only; every other room is handed plain values.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import reduce
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from limits import parse_many
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from horde_proxy.prompts.formats import FORMATS

PREFIX = "HORDE_PROXY_"
ANONYMOUS_KEY = "0000000000"
SHORTEST_KEY = 16
DEFAULT_HOST = "127.0.0.1"
Seconds = Annotated[float, Field(gt=0)]


class ConfigError(Exception):
    """A setting that cannot be used; the message names it, its value and its source."""


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


Layer = tuple[str, Mapping[str, Any]]


def load(
    path: str | None = None,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration of a file (`path`, or HORDE_PROXY_CONFIG), the environment and flags.

    `flags` is nested like the file: {"server": {"bind": ...}}. Raises ConfigError.
    """
    path = path or environ.get(PREFIX + "CONFIG") or None
    layers: list[Layer] = [(path, _read_file(Path(path)))] if path else []
    layers += _environment(environ, _host(layers[0][1] if layers else {}))
    layers += [("the command line", flags or {})]
    merged = reduce(_merge, (tree for _, tree in layers))
    try:
        return Config.model_validate(merged)
    except ValidationError as exc:
        raise ConfigError(_explain(exc, layers)) from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".py":
            names = runpy.run_path(str(path))
            return {name: names[name] for name in Config.model_fields if name in names}
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"cannot read the configuration {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, SyntaxError) as exc:
        raise ConfigError(f"the configuration {path} is not valid: {exc}") from exc
    except Exception as exc:
        raise ConfigError(f"the configuration {path} failed: {type(exc).__name__}: {exc}") from exc


def _host(tree: Mapping[str, Any]) -> str:
    """The host that a file listens on; PORT is a port of it."""
    server = tree.get("server")
    bind = str(server.get("bind", "")) if isinstance(server, Mapping) else ""
    return bind.rpartition(":")[0] if "/" not in bind and ":" in bind else DEFAULT_HOST


def _environment(environ: Mapping[str, str], host: str) -> list[Layer]:
    """One layer for each variable that is ours. `host` is what PORT is a port of."""
    trees: dict[str, dict[str, Any]] = {}
    if environ.get("PORT"):
        trees["PORT"] = {"server": {"bind": f"{host}:{environ['PORT']}"}}
    if environ.get("AI_HORDE_API_KEY"):
        trees["AI_HORDE_API_KEY"] = {"horde": {"api_key": environ["AI_HORDE_API_KEY"]}}
    for name in sorted(environ):
        section, separator, _ = name.removeprefix(PREFIX).lower().partition("__")
        if name.startswith(PREFIX) and (separator or section in Config.model_fields):
            trees[name] = _variable(name, environ[name])
    return [(f"environment variable {name}", tree) for name, tree in trees.items()]


def _variable(name: str, value: str) -> dict[str, Any]:
    """Lists, tables and whole sections are JSON; everything else is text."""
    section, separator, field = name.removeprefix(PREFIX).lower().partition("__")
    is_json = value.startswith(("[", "{"))
    try:
        found = json.loads(value) if is_json or not separator else value
    except ValueError:
        if not separator or value.startswith("{"):
            raise ConfigError(f"environment variable {name}: expected JSON") from None
        found = value
    return {section: {field: found} if separator else found}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _explain(exc: ValidationError, layers: list[Layer]) -> str:
    lines = []
    for error in exc.errors():
        where = [str(part) for part in error["loc"]]
        if not where:
            lines.append(error["msg"].removeprefix("Value error, "))
            continue
        value = repr(error["input"]) if _may_be_shown(where, error["type"]) else "(hidden)"
        source = next((name for name, tree in reversed(layers) if _has(tree, where)), "a default")
        reason = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            reason = _no_such(where)
        lines.append(f"setting {'.'.join(where)} = {value} from {source}: {reason}")
    return "\n".join(lines)


def _may_be_shown(where: list[str], kind: str) -> bool:
    """A value may be a key: only those of known settings that hold none are shown."""
    is_leaf = len(where) > 1 and kind != "extra_forbidden"
    may_be_secret = where[-1] in ("api_key", "redis_url") or where[0] == "access"
    return is_leaf and not may_be_secret or where == ["formats"]


def _no_such(where: list[str]) -> str:
    """What to say of a setting that does not exist, with the nearest one that does."""
    section = Config.model_fields.get(where[0])
    nested = section.annotation if section and len(where) > 1 else Config
    fields = list(getattr(nested, "model_fields", {}))
    near = get_close_matches(where[-1], fields, 1, 0)
    return "there is no such setting" + (f"; {near[0]} is the nearest" if near else "")


def _has(tree: Any, where: list[str]) -> bool:
    for part in where:
        if not isinstance(tree, Mapping) or part not in tree:
            return False
        tree = tree[part]
    return True
