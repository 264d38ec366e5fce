"""Reloads the settings of a running app: after a signal, and when their file has changed.

How the threads meet:

- one thread, the watcher, looks at the file every second. It reloads a file that differs from the
  one that was read last and that has stopped changing, or once a signal has asked for it;
- a signal handler only sets `_is_requested`, for it may interrupt a thread that holds any lock;
- without a file there is no watcher, and a signal begins a thread that reloads;
- what a reload finds wrong is logged once, and is in the app's SettingsStatus until one succeeds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from flask import Flask

from horde_proxy.app.factory import composition_of, reconfigure
from horde_proxy.caching.background import in_background
from horde_proxy.config import Config, ConfigError, file_version

_POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


class Reloader:
    """Gives an app the settings that `read` returns.

    `check` raises ConfigError for settings that the listening sockets do not permit. `path` is the
    settings file, if there is one. `keep` is given the settings that are used from now on.
    """

    def __init__(
        self,
        app: Flask,
        read: Callable[[], Config],
        check: Callable[[Config], None],
        path: str | None = None,
        keep: Callable[[Config], None] = lambda settings: None,
    ) -> None:
        self._keep = keep
        self._app, self._read, self._check, self._path = app, read, check, path
        file = composition_of(app).settings.file
        # Of the file: the version that was read last, and the one that was seen last.
        self._known = self._seen = file.version if file else None
        self._is_requested = False
        # One reload at a time. File and database are read under it, but no request waits for it.
        self._reloading = threading.Lock()

    def start(self) -> None:
        """Watch the file, if there is one.

        A worker that replaces one that was killed reloads before it serves, where the file has
        changed since its settings were read.
        """
        if self._path is None:
            return
        if file_version(self._path) != self._known:
            self._known = file_version(self._path)
            self.reload()
        threading.Thread(target=self._watch, args=(self._path,), daemon=True).start()

    def request(self) -> None:
        """Reload soon. Safe in a signal handler."""
        if self._path is None:
            in_background(self.reload)
        else:
            self._is_requested = True

    def look(self, path: str) -> None:
        """Reload if there is a reason to, and the file is as it was at the last look.

        Polling needs no library and sees every way to replace a file, also on network mounts.
        """
        version = file_version(path)
        is_still, self._seen = version == self._seen, version
        if is_still and (self._is_requested or version != self._known):
            self._is_requested, self._known = False, version
            self.reload()

    def reload(self) -> None:
        """Read the settings and use them, or log why not."""
        status = composition_of(self._app).live.settings
        with self._reloading:
            try:
                settings = self._read()
                if settings.file and file_version(settings.file.path) != settings.file.version:
                    # Somebody was writing meanwhile. The next look finds another version.
                    return
                self._check(settings)
                needs_restart = reconfigure(self._app, settings)
                self._keep(settings)
            except ConfigError as exc:
                status.problem = str(exc)
                log.error("the settings were not reloaded: %s", exc)
            # A Python file may raise anything; the thread that watches it must go on.
            except (Exception, SystemExit) as exc:
                status.problem = f"reading the settings failed: {type(exc).__name__}"
                log.exception("the settings were not reloaded")
            else:
                names = ", ".join(needs_restart)
                log.info(
                    "the settings were reloaded%s",
                    f"; changed, but applied only by a restart: {names}" if names else "",
                )

    def _watch(self, path: str) -> None:
        while True:
            time.sleep(_POLL_SECONDS)
            self.look(path)
