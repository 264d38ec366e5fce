"""Whether an address can be listened on, found out before anything is started there."""

from __future__ import annotations

import socket


class CannotListen(RuntimeError):
    """Nothing can listen there; the message says why and what to do."""


def check_free(bind: str) -> None:
    """Raises CannotListen where HOST:PORT is taken, or is not this machine's."""
    host, _, port = bind.rpartition(":")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), int(port)))
    except OSError as exc:
        raise CannotListen(
            f"cannot listen on {bind} ({exc.strerror}): choose another --bind"
        ) from exc
