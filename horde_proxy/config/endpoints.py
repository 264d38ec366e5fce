"""[[endpoints]] and [routing]: the servers that answer, and which of them is used."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import quote, urlsplit

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)

from horde_proxy.config.values import (
    HttpUrl,
    ProxyUrl,
    Seconds,
    Section,
    SentKey,
    WebhookUrl,
    header_value,
)
from horde_proxy.upstreams.kinds import KINDS

_HEADER_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
"""A token of RFC 9110, section 5.6.2, as in "OpenAI-Organization"."""
_NAME = re.compile(r"[\w.:-]{1,64}", re.ASCII)
"""A name that fits into a header and a URL, as in "ollama" or "127.0.0.1:11434"."""


def _known_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"use one of: {', '.join(KINDS)}")
    return kind


class EndpointSettings(Section):
    """One server that answers. A `horde` without `url` is the one under [horde]."""

    url: Annotated[HttpUrl | None, Field(repr=False)] = None
    """The server's URL, for example `http://127.0.0.1:11434`; required but for a horde."""
    type: Annotated[str, AfterValidator(_known_kind)] = "openai"
    """What kind of server it is: KINDS."""
    api_key: Annotated[SentKey | None, Field(repr=False)] = None
    """The key that the server asks for."""
    name: str | None = None
    """What `X-Endpoint` and keys call it. Not set: its host and port."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Its share of the requests, among endpoints of the same priority."""
    priority: int = 0
    """Of the endpoints that offer a model, the one with the lowest number is used."""
    models: list[str] = []
    """Globs of its own names for the models that it offers here; empty: all."""
    prefix: str = ""
    """What is put before its models' names, for clients."""
    timeout: Seconds = 300
    """Seconds that may pass between two bytes of an answer."""
    headers: Annotated[dict[str, str], Field(repr=False)] = {}
    """Headers that are sent with each request; not to a horde."""
    proxy_url: Annotated[ProxyUrl | None, Field(repr=False)] = None
    """The HTTP proxy for calls of it, or `direct` for none. Not set: `server.proxy_url`, unless it
    is on the home network."""
    webhook_url: WebhookUrl | None = None
    """Where a horde at another `url` than `horde.url` reaches this proxy, to push its results."""
    options: Annotated[dict[str, JsonValue], Field(repr=False)] = {}
    """Settings of its `type` alone; a type that has none refuses them."""

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of a header")
            try:
                header_value(value)
            except ValueError as exc:
                raise ValueError(f"the value of {name!r}: {exc}") from None
        return headers

    @field_validator("options")
    @classmethod
    def _of_its_type(
        cls, options: dict[str, JsonValue], info: ValidationInfo
    ) -> dict[str, JsonValue]:
        # Without a type, the error is about that. What options there are says the kind's `build`.
        kind = KINDS.get(info.data.get("type", ""))
        if options and kind and not kind.has_options:
            raise ValueError(f"the type `{info.data['type']}` has no options")
        return options

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and not _NAME.fullmatch(name):
            raise ValueError("a name has up to 64 letters, digits and . : _ -")
        return name

    @model_validator(mode="after")
    def _has_a_url(self) -> EndpointSettings:
        if self.url is None and KINDS[self.type].needs_url:
            raise ValueError("an endpoint needs a url")
        return self

    def label(self) -> str:
        """Its name, or else its host and port, or its type where that is enough."""
        host = urlsplit(self.url or "").netloc.rpartition("@")[2]
        # Headers carry the name, and take ASCII only: "m%C3%BCller.local:1" for müller.local:1.
        host = quote(host, safe="[]:%")
        return self.name or (host if KINDS[self.type].needs_url else "") or self.type


class RoutingSettings(Section):
    """When another endpoint is used."""

    cooldown: Seconds = 1
    """Seconds without requests for what failed, a model at an endpoint or all of the endpoint;
    doubled with each further failure."""
    longest_cooldown: Seconds = 60
    """The longest cooldown, in seconds."""
    max_wait: Seconds | None = None
    """A horde whose expected wait is longer (s) is tried after the model's `[fallbacks]`."""
    models_ttl: Seconds = 60
    """Seconds for which an endpoint's list of models is kept."""


def number_unnamed(endpoints: list[EndpointSettings]) -> None:
    """Name endpoints on one host that have no name: host, host-2 and so on."""
    taken = [endpoint.name for endpoint in endpoints if endpoint.name]
    for endpoint in endpoints:
        if endpoint.name is None:
            label, number = endpoint.label(), 1
            while (name := label if number == 1 else f"{label}-{number}") in taken:
                number += 1
            endpoint.name = name
            taken.append(name)
