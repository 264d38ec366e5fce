"""What to change in a reverse proxy that alters requests: for nginx, Caddy, Apache and Traefik.

`check` finds the faults; this only words their mends.
"""

from __future__ import annotations

from collections.abc import Mapping

_SAMPLES = {
    "nginx": "systemd/nginx.conf",
    "Caddy": "systemd/Caddyfile",
    "Apache": "systemd/apache.conf",
    # It names itself in no header, so that its mends are shown with all others.
    "Traefik": "systemd/traefik.toml",
}
_MENDS = {
    "names": {
        "nginx": "proxy_pass without a path",
        "Caddy": "no uri or rewrite before reverse_proxy",
        "Apache": "AllowEncodedSlashes NoDecode, and nocanon behind ProxyPass",
        "Traefik": "encodedCharacters.allowEncodedSlash of the entry point",
    },
    "body": {
        "nginx": "client_max_body_size 512m",
        "Caddy": "request_body { max_size 512MB }",
        "Apache": "LimitRequestBody 536870912",
        "Traefik": "no buffering middleware; a longer respondingTimeouts.readTimeout",
    },
    "stream": {
        "nginx": "proxy_buffering off; proxy_http_version 1.1",
        "Caddy": "flush_interval -1 in reverse_proxy, and no encode for text/event-stream",
        "Apache": "flushpackets=on behind ProxyPass, and no DEFLATE for text/event-stream",
        "Traefik": "flushInterval = -1ns, and no compress for text/event-stream",
    },
    "time-outs": {
        "nginx": "proxy_read_timeout 900s",
        "Caddy": "response_header_timeout 900s and no read_timeout in transport http",
        "Apache": "timeout=900 behind ProxyPass",
        "Traefik": "responseHeaderTimeout = 900s, and no writeTimeout of the entry point",
    },
}
"""By what is altered: the directive of each program that keeps it as it was sent."""


def program_of(headers: Mapping[str, str]) -> str | None:
    """The program that answered, by Server ("nginx/1.22.1") and Via ("1.1 Caddy"); None if unknown.

    The names of the headers are those of requests, in any case.
    """
    written = f"{headers.get('Server', '')} {headers.get('Via', '')}".lower()
    return next((name for name in _SAMPLES if name.lower() in written), None)


def mend(fault: str, program: str | None) -> str:
    """The directive against a fault of _MENDS; of all programs where nothing tells which it is."""
    directives = _MENDS[fault]
    if program is not None:
        return f"{directives[program]}; {compare(program)}"
    named = "; ".join(f"{name}: {directive}" for name, directive in directives.items())
    return f"{named}; {compare(None)}"


def compare(program: str | None = None) -> str:
    """Which sample to compare one's own configuration with."""
    samples = ", ".join(_SAMPLES.values()) if program is None else _SAMPLES[program]
    return f"compare your configuration with {samples}"
