"""What to say where a client often runs on another machine, or in a container. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

from horde_proxy.client_setup.contract import ProxyForClient

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def network_note(proxy: ProxyForClient, title: str) -> str:
    """A sentence or two on the address that the client needs."""
    if urlsplit(proxy.root).hostname not in _THIS_MACHINE:
        return f"{title} must reach {proxy.root} from where it runs."
    return (
        f"{proxy.root} is reached from this machine only. If {title} runs on another one, or in a "
        "container, let the proxy listen on the network (server.bind, with access.mode and keys: "
        "docs/security.md), and run setup again with --url http://ADDRESS:PORT."
    )
