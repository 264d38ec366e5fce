"""[server]: how the proxy listens, and how long clients wait."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import Field, field_validator

from horde_proxy.config.values import HttpUrl, Seconds, SecondsOrZero, Section, is_loopback

_HOST = re.compile(r"[\w.-]+|\[[0-9a-fA-F:.%\w]+\]", re.ASCII)
"""A name or an address, as in "localhost", "10.0.0.1", "[::1]" or "[fe80::1%eth0]"."""
_ORIGIN = re.compile(r"https?://(?:[\w.-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?", re.ASCII)
"""The origin of a web page as browsers send it: "https://chat.example.org", "http://10.0.0.5:3000"."""
_HIGHEST_PORT = 65_535


class ServerSettings(Section):
    """How the proxy listens, and how long clients wait."""

    bind: str = "127.0.0.1:8080"
    """Where to listen: `HOST:PORT` or `unix:PATH`. The variable `PORT` sets the port alone."""
    places: Annotated[int, Field(ge=1, le=10_000)] = 1000
    """Chats that may wait at a time; one more gets status 503 at once."""
    max_body: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
    """The largest body of a request, in bytes."""
    max_upload: Annotated[int, Field(ge=1024)] = 512 * 1024 * 1024
    """The largest upload that is proxied to an endpoint, in bytes."""
    timeout: Seconds = 280
    """How long an answer in one piece may take, in seconds."""
    stream_timeout: Seconds = 1200
    """How long a stream may take, in seconds."""
    keepalive: Literal["chunk", "comment", "off"] = "chunk"
    """What a stream sends while nothing new has come: an event without news (an empty chunk,
    `response.in_progress`, `ping`), or a comment only, which Codex takes for silence."""
    keepalive_interval: Seconds = 10
    """Seconds between two such signs of life."""
    grace: SecondsOrZero = 30
    """Seconds that running chats have to end when the proxy is stopped."""
    reattach: bool = True
    """Whether a client's retry shares the answer that is on its way."""
    reattach_window: SecondsOrZero = 60
    """Seconds for which a complete answer waits for a client that left."""
    cancel_grace: SecondsOrZero = 10
    """Seconds for which a chat goes on whose client left; then it is cancelled."""
    loop_limit: Annotated[int, Field(ge=0)] = 30
    """Equal requests a minute before a client counts as caught in a loop; 0 turns this off."""
    inspect: Annotated[int, Field(ge=0, le=200)] = 0
    """Requests of each key that are kept in memory with prompts and raw answers; 0: none. Only that
    key sees them: `GET /v1/inspections`, and the page `/page/inspector`."""
    log_format: Literal["text", "json"] = "text"
    """How to log to stderr: lines of text or of JSON."""
    trusted_proxies: list[str] = []
    """Addresses and networks (`10.0.0.0/8`, or `*`) whose `X-Forwarded-For` is believed."""
    hosts: list[str] = []
    """Other names by which clients of a proxy without keys reach it, `ai.example.org`; that of
    `public_url` is one of them."""
    origins: list[str] = []
    """Web pages of other machines that may use a proxy without keys, `https://chat.example.org`;
    `*`: all pages that anybody on this network opens."""
    public_url: HttpUrl | None = None
    """Where clients reach this proxy, for links to pictures, `https://ai.example.org`. Not needed
    where `trusted_proxies` says it by `X-Forwarded-Proto` and `-Host`."""
    proxy_url: Annotated[HttpUrl | None, Field(repr=False)] = None
    """The HTTP proxy for outgoing calls, `http://[USER:PASSWORD@]HOST:PORT`; servers of the home
    network are called directly. `HTTP_PROXY` and the like are not read."""
    strict: bool = False
    """Refuse what cannot be used of a request, instead of leaving it out with a warning."""
    first_run: bool = True
    """Whether the page leads the operator through the first settings while there are none."""
    max_n: Annotated[int, Field(ge=1, le=20)] = 4
    """The largest `n`: answers to one request."""

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

    @field_validator("hosts")
    @classmethod
    def _host_names(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r}: write a name or an address, without scheme and port")
        return hosts

    @field_validator("origins")
    @classmethod
    def _web_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r}: write it as https://chat.example.org, without path")
        return origins

    @field_validator("bind")
    @classmethod
    def _address(cls, bind: str) -> str:
        # gunicorn would take a list, of which only the first address would be checked here.
        if "," in bind:
            raise ValueError("give one address only")
        if bind.startswith(("unix:", "fd://")):
            return bind
        host, _, port = bind.rpartition(":")
        # Only ASCII digits: int() would take others, such as the Arabic ones.
        is_port = re.fullmatch("[0-9]{1,5}", port) and int(port) <= _HIGHEST_PORT
        if not _HOST.fullmatch(host) or not is_port:
            raise ValueError("write it as HOST:PORT, for example 127.0.0.1:8080, or unix:PATH")
        return bind

    def is_local(self) -> bool:
        """Whether only this machine reaches it. Of an inherited socket, `serving` finds out."""
        host = self.bind.rpartition(":")[0].strip("[]")
        return self.bind.startswith(("unix:", "fd://")) or is_loopback(host)
