"""gunicorn, set up for requests that wait: one process, many threads, an orderly end.

The process that watches over it never imports the application, which would double its memory.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.systemd import SD_LISTEN_FDS_START as LISTEN_FDS_START
from gunicorn.systemd import listen_fds
from gunicorn.workers.gthread import ThreadWorker

from horde_proxy.config import Config, ConfigError, is_loopback
from horde_proxy.listening import check_free

if TYPE_CHECKING:
    from flask import Flask

_AFTER_GRACE = 10
_BACKLOG = 1024
_KEEPALIVE = 75
_SPARE_THREADS = 32
_LOOK = 1.0
_IDLE_CONNECTIONS = 1000
STALLED_SECONDS = 300
"""How long a client may neither take what it is sent nor send what it announced."""

log = logging.getLogger(__name__)


class GunicornWorker(ThreadWorker):  # type: ignore[misc]
    """Ends in order, and takes new settings without ending.

    SIGTERM: chats may end within the grace time, then all that still wait are cancelled. SIGINT
    and SIGQUIT cancel them at once. SIGHUP, or another content of their file: the settings are
    read again.
    """

    def init_process(self) -> None:
        for each in self.sockets:
            give_up_stalled(each, STALLED_SECONDS)
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGHUP, lambda *_: self._in_background(self._reconfigure))

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        if self.wsgi is not None:
            self.wsgi.extensions["horde_proxy"].live.shutdown.is_near = True
        self._in_background(self._halt, max(self.cfg.graceful_timeout - _AFTER_GRACE, 0))

    def handle_quit(self, sig: int, frame: Any) -> None:
        self._halt()
        super().handle_quit(sig, frame)

    def run(self) -> None:
        if self.app.settings_file:
            threading.Thread(target=self._watch, daemon=True).start()
        try:
            super().run()
        finally:
            self._halt()

    def _halt(self) -> None:
        if self.wsgi is not None:
            self.wsgi.extensions["horde_proxy"].live.shutdown.set()
            self.wsgi.extensions["assembly"].disconnects.hang_up_all()

    def _watch(self) -> None:
        """Reads the settings again when their file has become another one and rests."""
        before = known = _stamp(self.app.settings_file)
        while True:
            time.sleep(_LOOK)
            now = _stamp(self.app.settings_file)
            if now == before and now not in (known, None):
                known = now
                self._reconfigure()
            before = now

    def _reconfigure(self) -> None:
        from horde_proxy.app.factory import reconfigure

        try:
            settings = self.app.read_settings()
            guard(settings, [each.fileno() for each in self.sockets])
            reconfigure(self.wsgi, settings)
        except ConfigError as exc:
            log.error("the settings were not reloaded: %s", exc)
        # A Python file may do anything; whoever watches it has to live on.
        except (Exception, SystemExit):
            log.exception("the settings were not reloaded")
        else:
            log.info("the settings were reloaded; server.bind and places want a restart")

    def _in_background(self, call: Callable[[], None], seconds: float = 0) -> None:
        """Outside the signal handler, which may have interrupted the holder of any lock."""
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()


def _stamp(path: str) -> tuple[int, int, int] | None:
    """What changes when a file does; None where there is none, as between two versions."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class _Master(Arbiter):  # type: ignore[misc]
    """Passes SIGHUP on to the worker instead of replacing it, for a worker has chats running."""

    def reload(self) -> None:
        self.kill_workers(signal.SIGHUP)


class Server(BaseApplication):  # type: ignore[misc]
    """`run()` serves until SIGTERM or SIGINT. The app is made in the process that serves it."""

    def __init__(
        self,
        settings: Config,
        read_settings: Callable[[], Config],
        settings_file: str | None = None,
    ) -> None:
        self._settings = settings
        self.read_settings, self.settings_file = read_settings, settings_file
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_settings(self._settings).items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        from horde_proxy.app.factory import create_app

        return create_app(self._settings)

    def run(self) -> None:
        """Serve. Raises RuntimeError or ConfigError when it cannot or must not."""
        bind = self._settings.server.bind
        inherited = _handed_over(bind)
        guard(self._settings, inherited)
        if not inherited and not bind.startswith(("unix:", "fd://")):
            check_free(bind)
        _Master(self).run()


def _handed_over(bind: str) -> list[int]:
    """The sockets that others opened: fd://'s, systemd's, and, after SIGUSR2, gunicorn's own."""
    named = [bind.removeprefix("fd://"), *os.environ.get("GUNICORN_FD", "").split(",")]
    systemd = range(LISTEN_FDS_START, LISTEN_FDS_START + listen_fds(False))
    return [*map(int, filter(str.isdecimal, named)), *systemd]


def give_up_stalled(listener: socket.socket, seconds: float) -> None:
    """A thread that serves a client which has stalled gets an error then; Unix sockets wait on.

    Connections have it from the socket that accepts them. Otherwise a client that is suspended in
    the middle of an answer would hold its place for ever.
    """
    limit = struct.pack("ll", *divmod(int(seconds * 1e6), 1_000_000))
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        listener.setsockopt(socket.SOL_SOCKET, option, limit)


def guard(settings: Config, fds: Iterable[int]) -> None:
    """Raises ConfigError where a listening socket lets others in, whatever server.bind says."""
    if settings.access.mode is None and not all(map(is_local, fds)):
        raise ConfigError("a socket that is listened on lets others in: set access.mode")


def is_local(fd: int) -> bool:
    """Whether a listening socket is reached from this machine only."""
    with socket.socket(fileno=os.dup(fd)) as listener:
        name = listener.getsockname()
    return isinstance(name, str | bytes) or is_loopback(name[0])


def gunicorn_settings(settings: Config) -> dict[str, Any]:
    """gunicorn's settings by name; those that an older gunicorn does not know are left out."""
    server = settings.server
    threads = server.places + _SPARE_THREADS
    return {
        "bind": server.bind,
        "workers": 1,
        "worker_class": "horde_proxy.serving.GunicornWorker",
        "threads": threads,
        "worker_connections": threads + _IDLE_CONNECTIONS,
        "backlog": _BACKLOG,
        "keepalive": _KEEPALIVE,
        "graceful_timeout": int(server.grace) + _AFTER_GRACE,
        "forwarded_allow_ips": ",".join(server.trusted_proxies),
        "loglevel": "warning",
        "logger_class": "horde_proxy.serving.Logger",
        "proc_name": "horde-proxy",
        "control_socket_disable": True,
    }


class Logger(glogging.Logger):  # type: ignore[misc]
    """gunicorn's own messages go where ours go."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """The error that is being handled, with its traceback; who has stalled is none of ours."""
        if isinstance(sys.exc_info()[1], BlockingIOError):
            log.info("a client that stalled was given up")
        else:
            super().exception(msg, *args, **kwargs)
