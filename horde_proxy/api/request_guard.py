"""Which requests a proxy without keys refuses: those of strangers, and those of foreign web pages.

Without `access.mode` the proxy serves this machine only. It listens on loopback, but what came
through a reverse proxy connects from there, too; so does a web page in a browser on this machine,
whose visitor never asked for it. No Flask here, and no decision about keys.

    access.mode     from elsewhere, through a proxy     web pages of other origins
    not set         refused                             refused
    "open"          served                              refused
    with keys       the key decides                     the key decides
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from werkzeug.datastructures import Headers

from horde_proxy.api.addresses import TrustedProxies, is_forwarded, is_local
from horde_proxy.networks import parse_address

_HOME_SUFFIXES = (".local", ".lan", ".home", ".internal", ".home.arpa", ".localdomain")
"""The ends of names that no public DNS serves (RFC 6762, RFC 8375; routers of homes): no web page
can come from there but one's own."""
_LONGEST_SHOWN = 100
"""Characters of a client's Host or Origin that an error repeats."""
_ANY_ORIGIN = "*"
_SET_MODE = 'set access.mode to "keys", "passthrough" or "open"'

FORWARDED = (
    "This request came through a reverse proxy. Without access.mode, this proxy serves the clients "
    f"of its own machine only: {_SET_MODE}."
)


@dataclass(frozen=True)
class RequestGuard:
    """What is refused before anything else is looked at.

    `is_local_only`: access.mode is not set. `guards_pages`: no key keeps web pages away. `hosts`
    are names under which clients reach this proxy, `origins` web pages that may call it, both in
    lower case; "*" are all pages.
    """

    is_local_only: bool = False
    guards_pages: bool = False
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    trusted: TrustedProxies = field(default_factory=TrustedProxies)

    @property
    def refuses(self) -> bool:
        """Whether there is any request that it refuses."""
        return self.is_local_only or self.guards_pages

    def refusal(self, peer: str, headers: Headers, protocol: str) -> str | None:
        """Why a request is refused, as a sentence that says what to set; None: it is not.

        `peer` is the address of the connection, "" of a Unix socket; `protocol` as in "HTTP/1.1".
        """
        if self.is_local_only:
            host = _host_name(headers.get("Host", ""))
            # nginx before 1.29.7 speaks HTTP/1.0 to servers and adds no header, unless it is told
            # otherwise. Clients of these APIs speak HTTP/1.1.
            if protocol == "HTTP/1.0" or not is_local(peer, headers, self.trusted):
                return FORWARDED
            if peer and host and not self._is_own(host):
                return (
                    f"This proxy serves the clients of its own machine only, and not {_shown(host)}"
                    f": add that name to server.hosts, or {_SET_MODE}."
                )
        return self.refusal_of_page(headers) if self.guards_pages else None

    def is_this_machine(self, peer: str, headers: Headers, protocol: str) -> bool:
        """Whether a request certainly comes from this machine, so that its sender is the operator.

        Stricter than `refusal`: with access.mode "open" and "passthrough", strangers are served,
        also through a reverse proxy that adds no header, and so are pages of other sites.
        """
        if not is_local(peer, headers, self.trusted):
            return False
        if self.refusal_of_page(headers) is not None:
            return False
        # A trusted proxy has named its client; that client may use the proxy's public name.
        return is_forwarded(headers) or not self._looks_forwarded(peer, headers, protocol)

    def _looks_forwarded(self, peer: str, headers: Headers, protocol: str) -> bool:
        """Whether a reverse proxy that adds no header may have sent a request."""
        if protocol == "HTTP/1.0":
            # What nginx before 1.29.7 speaks to servers, as in `refusal`.
            return True
        host = _host_name(headers.get("Host", ""))
        if not peer or not host:
            return False
        if (address := parse_address(host)) is not None:
            # Who connects to another address of this machine from here does not come from loopback.
            return not address.is_loopback
        # server.hosts may have the public name, which an nginx that speaks HTTP/1.1 passes on.
        return not (self._is_own(host) and (_is_home(host) or host.endswith(".localhost")))

    def refusal_of_page(self, headers: Headers) -> str | None:
        """Why a request of a web page is refused; None: it is not, or no page sent it.

        A page may look as if it came from here, where its author's DNS server first names his own
        address and then ours. So its origin and the name that it called us by have to be known.
        """
        host, origin = _host_name(headers.get("Host", "")), headers.get("Origin", "")
        if origin:
            return None if self._allows(origin.strip().lower(), host) else _of_other_origin(origin)
        # Browsers send no Origin with a GET of the page's own origin.
        if not _is_browser(headers) or not host or self._is_own(host) or _is_home(host):
            return None
        return (
            f"Web pages at {_shown(host)} may not use this proxy: if it is your name for the "
            'machine, add it to server.hosts, or set access.mode to "keys".'
        )

    def _allows(self, origin: str, host: str) -> bool:
        if _ANY_ORIGIN in self.origins or origin in self.origins:
            return True
        parts = urlsplit(origin)
        # Programs with a built-in browser and extensions: "app://obsidian.md", "tauri://localhost",
        # "vscode-webview://...". "null" is any page in a sandbox, or a file.
        if parts.scheme not in ("http", "https"):
            return bool(parts.scheme)
        name = _host_name(parts.netloc)
        return self._is_own(name) or (name == host and _is_home(name))

    def _is_own(self, host: str) -> bool:
        """Whether a name is this machine's for sure, or listed."""
        address = parse_address(host)
        if address is not None and address.is_loopback:
            return True
        return host == "localhost" or host.endswith(".localhost") or host in self.hosts


def _host_name(host: str) -> str:
    """The name in a Host header or an origin, in lower case: "localhost" of "Localhost:8080"."""
    try:
        return urlsplit(f"//{host.strip()}").hostname or ""
    except ValueError:
        # Not an address in brackets. It equals no name.
        return host.lower()


def _is_home(host: str) -> bool:
    """Whether only one's own network can have this name: an address, "server", "server.lan"."""
    return parse_address(host) is not None or "." not in host or host.endswith(_HOME_SUFFIXES)


def _is_browser(headers: Headers) -> bool:
    """Whether a browser sent a request: all call themselves Mozilla/5.0."""
    return headers.get("User-Agent", "").startswith("Mozilla/")


def _of_other_origin(origin: str) -> str:
    return (
        f"Web pages of {_shown(origin)} may not use this proxy: add that origin to server.origins, "
        'or set access.mode to "keys".'
    )


def _shown(text: str) -> str:
    return repr(text[:_LONGEST_SHOWN])
