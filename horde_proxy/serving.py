"""gunicorn, set up for requests that wait: one worker process, many threads, an orderly end.

The threads of a worker process, and how they meet:

- its main thread accepts connections, receives requests (see connections.worker) and runs signal
  handlers. A handler interrupts that thread anywhere, so it takes no lock that the thread may hold:
  it sets flags and starts timer threads;
- `threads` serve one whole request each, with the context that they found when they began;
- one thread watches the settings files (app.reload); after a change, or after SIGHUP, it builds a
  new context and puts it in place of the old one with a single assignment;
- after SIGTERM a timer ends the chats that still run, by a flag that every sleep looks at.

The master process must never import the application, which would double its memory.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError
from gunicorn.systemd import SD_LISTEN_FDS_START as LISTEN_FDS_START
from gunicorn.systemd import listen_fds

from horde_proxy import logs, printable
from horde_proxy.allocator import give_back_large_blocks
from horde_proxy.caching.background import later_in_background
from horde_proxy.config import Config, ConfigError, SettingsHandover, is_loopback
from horde_proxy.config.hordes import HORDE_THREADS
from horde_proxy.config.reload_mailbox import service_mailbox
from horde_proxy.connections.worker import (
    CONNECTIONS_WITHOUT_THREAD,
    CollectingWorker,
    Connection,
)
from horde_proxy.folders import lock_state
from horde_proxy.process_ties import OwnTerminal

if TYPE_CHECKING:
    from flask import Flask

    from horde_proxy.app.reload import Reloader

_AFTER_GRACE = 10
"""Seconds that chats have to end after they were cancelled; then gunicorn kills the worker."""
_BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted; Linux' own limit is 4096."""
_KEEPALIVE = 75
"""Seconds that an idle connection stays open: longer than nginx keeps one to its upstreams (60),
so that it is never we who close one that a request is just being sent on."""
_SPARE_THREADS = 32
"""Threads beyond server.places, for everything that does not wait: health, models, the page."""
STALLED_SECONDS = 300
"""How long a client may not take what it is sent."""

log = logging.getLogger(__name__)


class CannotListen(RuntimeError):
    """Nothing can listen on an address; the message says why and what to do."""


class GunicornWorker(CollectingWorker):
    """Receives whole requests, ends in order, and takes new settings without ending.

    SIGTERM: chats may end within the grace time, then the rest is cancelled. SIGINT and SIGQUIT
    cancel them at once. SIGHUP, or a changed settings file: the settings are read again.
    """

    _reloader: Reloader | None = None
    # gunicorn sets it once the app is loaded, which takes a second; a signal may come before.
    wsgi: Any = None

    def init_process(self) -> None:
        for listener in self.sockets:
            limit_stalls(listener, STALLED_SECONDS)
        give_back_large_blocks()
        super().init_process()

    def most_body(self) -> int:
        """Bytes of a body that are received before a thread serves the request."""
        return int(self.wsgi.config["MAX_CONTENT_LENGTH"])

    def is_urgent(self, request: Any) -> bool:
        """Whether threads are kept for this request, so that the proxy never looks dead."""
        return bool(request.path == "/health/live")

    def network_of(self, connection: Connection) -> str | None:
        """What a client's connections are counted by; None for a proxy, which has many clients."""
        trusted = self.wsgi.extensions["horde_proxy"].access.trusted_proxies
        is_proxy = isinstance(connection.client, tuple) and connection.client[0] in trusted
        return None if is_proxy else super().network_of(connection)

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGHUP, lambda *_: self._request_reload())

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        if self.wsgi is not None:
            self.wsgi.extensions["composition"].begin_shutdown()
        self._in_background(self._end_chats, max(self.cfg.graceful_timeout - _AFTER_GRACE, 0))

    def handle_quit(self, sig: int, frame: Any) -> None:
        # At once, for gunicorn exits in its own handler. The locks that this takes are held by
        # request threads only, which go on meanwhile.
        self._end_chats()
        super().handle_quit(sig, frame)

    def run(self) -> None:
        from horde_proxy.app.reload import Reloader

        self._reloader = Reloader(
            self.wsgi,
            self.app.read_settings,
            self._check_sockets,
            self.app.settings_files,
            self.app.handover.write,
            self.app.mailbox.put_answer,
        )
        self._reloader.start()
        # What a killed process has left goes on without waiting for a request.
        self.wsgi.extensions["composition"].jobs.ensure_started()
        self.wsgi.extensions["composition"].notices.ensure_started()
        self.wsgi.extensions["composition"].live.hourly.ensure_started()
        try:
            super().run()
        finally:
            self._end_chats()
            self.wsgi.extensions["composition"].save()

    def _end_chats(self) -> None:
        if self.wsgi is not None:
            self.wsgi.extensions["composition"].end_chats()

    def _request_reload(self) -> None:
        # Before there is an app, its settings are still to be read.
        if self._reloader is not None:
            self._reloader.request()

    def _check_sockets(self, settings: Config) -> None:
        check_exposure(settings, [listener.fileno() for listener in self.sockets])

    def _in_background(self, call: Callable[[], None], seconds: float = 0) -> None:
        """Call it in a thread of its own, outside the signal handler."""
        later_in_background(seconds, call)


class _Master(Arbiter):  # type: ignore[misc]
    """Passes SIGHUP on to the worker instead of replacing it, for a worker has chats running.

    Where the terminal that it was started in has been closed, it ends as after SIGTERM.
    """

    def __init__(self, app: BaseApplication) -> None:
        self._terminal = OwnTerminal()
        super().__init__(app)

    def reload(self) -> None:
        if self._terminal.is_lost():
            # As gunicorn's own handler of SIGTERM does.
            raise StopIteration
        self.kill_workers(signal.SIGHUP)

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        if exit_status == self.APP_LOAD_ERROR:
            self.stop()
            raise ConfigError("the settings cannot be used; the reason is above")
        super().halt(reason, exit_status)


class Server(BaseApplication):  # type: ignore[misc]
    """`run()` serves until SIGTERM or SIGINT. The app is made in the process that serves it."""

    def __init__(
        self,
        settings: Config,
        read_settings: Callable[[], Config],
        settings_files: Sequence[str] = (),
    ) -> None:
        self._settings = settings
        # Not those of the start: a file that has been spoilt since then must not bring them back.
        self.handover = SettingsHandover(settings)
        self.read_settings, self.settings_files = read_settings, tuple(settings_files)
        self.mailbox = service_mailbox()
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_settings(self._settings).items():
            # Releases of gunicorn differ in the settings that they know.
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        from horde_proxy.app.factory import create_app

        try:
            return create_app(self.handover.read())
        # The master ends with a status of its own then, instead of that of a failed start.
        except ConfigError as exc:
            raise AppImportError(logs.error_lines(printable.lines(str(exc)))) from exc

    def run(self) -> None:
        """Serve. Raises CannotListen, StateInUse, ConfigError, or RuntimeError of gunicorn."""
        # Forked workers hold it as well: a restore must not begin while one of them is left.
        lock_state()
        bind = self._settings.server.bind
        inherited = _inherited_sockets(bind)
        check_exposure(self._settings, inherited)
        if not inherited and not bind.startswith(("unix:", "fd://")):
            check_port_free(bind)
        _Master(self).run()


def check_port_free(bind: str) -> None:
    """Raises CannotListen where HOST:PORT is taken, or is not this machine's.

    gunicorn would try again for five seconds and not say what to do.
    """
    host, _, port = bind.rpartition(":")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), int(port)))
    except OSError as exc:
        raise CannotListen(
            f"cannot listen on {bind} ({exc.strerror}): choose another --bind"
        ) from exc


def _inherited_sockets(bind: str) -> list[int]:
    """The descriptors of sockets that others opened.

    They come from server.bind (fd://3), from systemd, and after SIGUSR2 from gunicorn itself.
    """
    named = [bind.removeprefix("fd://"), *os.environ.get("GUNICORN_FD", "").split(",")]
    systemd = range(LISTEN_FDS_START, LISTEN_FDS_START + listen_fds(False))
    return [*map(int, filter(str.isdecimal, named)), *systemd]


def listening_on(bind: str) -> str:
    """The addresses that are served: those of inherited sockets, which go before server.bind."""
    return ", ".join(map(_name_of, _inherited_sockets(bind))) or bind


def _name_of(fd: int) -> str:
    """The address of a socket, as server.bind would write it."""
    with socket.socket(fileno=os.dup(fd)) as listener:
        name, is_ipv6 = listener.getsockname(), listener.family == socket.AF_INET6
    if isinstance(name, str | bytes):
        return f"unix:{os.fsdecode(name)}"
    return f"[{name[0]}]:{name[1]}" if is_ipv6 else f"{name[0]}:{name[1]}"


def limit_stalls(listener: socket.socket, seconds: float) -> None:
    """Have a blocked read or write fail after some time; Unix sockets are not affected.

    Accepted connections inherit this from their listener. Without it, a client that is suspended
    in the middle of an answer would hold its thread for ever.
    """
    limit = struct.pack("ll", *divmod(int(seconds * 1e6), 1_000_000))
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        listener.setsockopt(socket.SOL_SOCKET, option, limit)


def check_exposure(settings: Config, fds: Iterable[int]) -> None:
    """Raises ConfigError where other machines reach a listening socket and nobody allowed that.

    server.bind does not tell: the socket may be inherited, or older than the settings.
    """
    if settings.access.mode is None and not all(map(is_local, fds)):
        raise ConfigError("this address is reachable from other machines: set access.mode")


def is_local(fd: int) -> bool:
    """Whether a listening socket is reached from this machine only."""
    with socket.socket(fileno=os.dup(fd)) as listener:
        name = listener.getsockname()
    # The name of a Unix socket is a path, or bytes in Linux' abstract namespace.
    return isinstance(name, str | bytes) or is_loopback(name[0])


def gunicorn_settings(settings: Config) -> dict[str, Any]:
    """gunicorn's settings by name."""
    server = settings.server
    waiting = HORDE_THREADS if settings.private_horde.enabled else 0
    threads = server.places + _SPARE_THREADS + waiting
    return {
        "bind": server.bind,
        # Slots, running requests and statistics are in the memory of one process.
        "workers": 1,
        "worker_class": "horde_proxy.serving.GunicornWorker",
        "threads": threads,
        "worker_connections": threads + CONNECTIONS_WITHOUT_THREAD,
        "backlog": _BACKLOG,
        "keepalive": _KEEPALIVE,
        "graceful_timeout": int(server.grace) + _AFTER_GRACE,
        "forwarded_allow_ips": ",".join(server.trusted_proxies),
        "loglevel": "warning",
        "logger_class": "horde_proxy.serving.Logger",
        "proc_name": "horde-proxy",
        # gunicorn 25 listens on a socket for its own commands unless told not to.
        "control_socket_disable": True,
    }


class Logger(glogging.Logger):  # type: ignore[misc]
    """Sends gunicorn's own messages where ours go."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """The current error with its traceback; a stalled client is no error of ours."""
        if isinstance(sys.exc_info()[1], BlockingIOError):
            log.info("the connection of a stalled client was closed")
        else:
            super().exception(msg, *args, **kwargs)
