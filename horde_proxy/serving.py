"""gunicorn, set up for requests that wait: one process, many threads, an orderly end."""

from __future__ import annotations

import threading
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

from horde_proxy import create_app
from horde_proxy.config import Config

_AFTER_GRACE = 10
_BACKLOG = 1024
_KEEPALIVE = 75
_CONNECTIONS_PER_THREAD = 4


class Worker(ThreadWorker):  # type: ignore[misc]
    """On SIGTERM chats may end within the grace time; then all that still wait are cancelled."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        halt = self.wsgi.extensions["horde_proxy"].halt
        timer = threading.Timer(max(self.cfg.graceful_timeout - _AFTER_GRACE, 0), halt.set)
        timer.daemon = True
        timer.start()


class Server(BaseApplication):  # type: ignore[misc]
    """`run()` serves until SIGTERM or SIGINT. The app is made in the process that serves it."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_settings(self._settings).items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        return create_app(self._settings)


def gunicorn_settings(settings: Config) -> dict[str, Any]:
    """gunicorn's settings by name; those that an older gunicorn does not know are left out."""
    server = settings.server
    return {
        "bind": server.bind,
        "workers": 1,
        "worker_class": "horde_proxy.serving.Worker",
        "threads": server.threads,
        "worker_connections": server.threads * _CONNECTIONS_PER_THREAD,
        "backlog": _BACKLOG,
        "keepalive": _KEEPALIVE,
        "graceful_timeout": int(server.grace) + _AFTER_GRACE,
        "loglevel": "warning",
        "proc_name": "horde-proxy",
        "control_socket_disable": True,
    }
