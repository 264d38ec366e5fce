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
    http_url,
)
from horde_proxy.places import EndpointPlace
from horde_proxy.upstreams.kinds import KINDS
from horde_proxy.upstreams.wake_on_lan import mac_address, wake_address

_HEADER_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
"""A token of RFC 9110, section 5.6.2, as in "OpenAI-Organization"."""
_NAME = re.compile(r"[\w.:-]{1,64}", re.ASCII)
"""A name that fits into a header and a URL, as in "ollama" or "127.0.0.1:11434"."""


def _known_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"use one of: {', '.join(KINDS)}")
    return kind


def _mac(text: str | None) -> str | None:
    if text is not None:
        mac_address(text)
    return text


def _wake_address(text: str | None) -> str | None:
    if text is not None:
        wake_address(text)
    return text


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
    place: EndpointPlace | None = None
    """Whose machines read what it gets: `home` (your own), `private` (people you know), `crowd`
    (anybody) or `paid` (a company). Not set: `home` on your own network, else `paid`; for a horde
    `private` there, else `crowd`; for `ocf` always `crowd`."""
    models: list[str] = []
    """Globs of its own names for the models that it offers here; empty: all."""
    prefix: str = ""
    """What is put before its models' names, for clients."""
    max_concurrent: Annotated[int, Field(ge=0)] | None = None
    """Requests that it gets at a time; others wait in line. 0: any number. Not set: as many for
    each model as its server says that it has slots, else any number."""
    max_concurrent_models: dict[str, Annotated[int, Field(ge=1)]] = {}
    """The same for each model whose own name is like a glob, as `{"*70b*" = 1}`."""
    longest_line: Annotated[int, Field(ge=0)] = 100
    """Requests that may wait in line for it. One more goes to an endpoint of the next priority or
    to a fallback, else it gets a 429 with `Retry-After`."""
    timeout: Seconds = 300
    """Seconds that may pass between two bytes of an answer."""
    headers: Annotated[dict[str, str], Field(repr=False)] = {}
    """Headers that are sent with each request; not to a horde."""
    proxy_url: Annotated[ProxyUrl | None, Field(repr=False)] = None
    """The HTTP proxy for calls of it, or `direct` for none. Not set: `server.proxy_url`, unless it
    is on the home network."""
    webhook_url: WebhookUrl | None = None
    """Where a horde at another `url` than `horde.url` reaches this proxy, to push its results."""
    wake: Annotated[str | None, AfterValidator(_mac)] = None
    """The MAC address of its machine, for example `aa:bb:cc:dd:ee:ff`: the machine sleeps while
    nobody needs it, and is woken by Wake-on-LAN."""
    wake_address: Annotated[str | None, AfterValidator(_wake_address)] = None
    """Where the packets that wake it are sent: `HOST` or `HOST:PORT`, for example
    `192.168.1.255:9`. Not set: as broadcasts to port 9 of the own networks."""
    boot_seconds: Seconds = 120
    """The longest time from the first packet until it answers, in seconds."""
    idle_after: Annotated[float, Field(gt=0)] | None = None
    """Minutes without a request, after which `idle_hook` runs, once until the next
    request."""
    idle_hook: Annotated[str | list[str] | None, Field(repr=False)] = None
    """What runs then: a command as a list of its words, for example
    `["ssh", "desktop", "systemctl", "suspend"]`, without a shell; or a URL that gets a POST."""
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

    @field_validator("idle_hook", mode="before")
    @classmethod
    def _can_run(cls, hook: object) -> object:
        if hook is None:
            return hook
        if isinstance(hook, str) and "://" in hook:
            return http_url(hook)
        is_words = isinstance(hook, list) and all(isinstance(word, str) for word in hook)
        # A program's arguments end at a NUL.
        if not isinstance(hook, list) or not is_words or not any(hook) or "\0" in "".join(hook):
            raise ValueError(
                "write a command as a list of its words, the program first, or the URL of a hook"
            )
        return hook

    @model_validator(mode="after")
    def _sleeps_as_a_whole(self) -> EndpointSettings:
        if self.wake and (KINDS[self.type].is_horde or not self.url):
            raise ValueError("`wake` is for a server with a url, and not for a horde")
        if self.wake_address and not self.wake:
            raise ValueError("`wake_address` needs `wake`, the MAC address of the machine")
        if (self.idle_after is None) != (self.idle_hook is None):
            raise ValueError("`idle_after` and `idle_hook` need each other")
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
    """A horde whose expected wait is longer (s) is tried after the model's `[fallbacks]`, and a
    machine that takes longer to wake up after all that are awake; it boots meanwhile."""
    hedge: bool = False
    """Whether a late answer is requested a second time, from another worker or endpoint: after the
    time within which 19 of 20 came, or where the queue does not move. The first one to come counts,
    the other is cancelled. Both together keep within `max_kudos` and the key's kudos."""
    hedge_stall: Seconds = 20
    """Seconds after which an unchanged position in a queue counts as late."""
    models_ttl: Seconds = 60
    """Seconds for which an endpoint's list of models is kept."""
    sticky: bool = True
    """Whether a conversation goes to the endpoint that answered it last, which need not read it
    anew, as long as that is not much busier than others of its priority."""
    default_embedding: Annotated[str, Field(min_length=1)] | None = None
    """The model that embeds for clients that name one which is not here, as
    `text-embedding-3-small`, or none."""


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
