"""Reloads the settings of a running app: after a signal, and when a file of theirs has changed.

How the threads meet:

- one thread, the watcher, looks at the files every second. It reloads where one differs from what
  was read last and has stopped changing, or once a signal has asked for it;
- a signal handler only sets `_is_requested`, for it may interrupt a thread that holds any lock;
- without a file there is no watcher, and a signal begins a thread that reloads;
- what a reload finds wrong is logged once, and is in the app's SettingsStatus until one succeeds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from flask import Flask

from horde_proxy.app.factory import composition_of, reconfigure
from horde_proxy.app.settings_access import RELOADER
from horde_proxy.caching.background import in_background
from horde_proxy.config import Config, ConfigError, file_version
from horde_proxy.config.file import FileVersion
from horde_proxy.config.reload_mailbox import ReloadAnswer

_POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


class Reloader:
    """Gives an app the settings that `read` returns.

    `check` raises ConfigError for settings that the listening sockets do not permit. `paths` are
    the settings files, also those that are not there yet. `keep` is given the settings that are
    used from now on, `answer` what became of each reload.
    """

    def __init__(
        self,
        app: Flask,
        read: Callable[[], Config],
        check: Callable[[Config], None],
        paths: Sequence[str] = (),
        keep: Callable[[Config], None] = lambda settings: None,
        answer: Callable[[ReloadAnswer], None] = lambda answer: None,
    ) -> None:
        self._keep, self._answer = keep, answer
        self._app, self._read, self._check, self._paths = app, read, check, tuple(paths)
        read_files = {file.path: file.version for file in composition_of(app).settings.files}
        # Of the files: the versions that were read last, and those that were seen last.
        self._known = self._seen = tuple(read_files.get(path) for path in self._paths)
        self._is_requested = False
        self.needs_restart: tuple[str, ...] = ()
        """What the last reload could not apply: names of settings."""
        app.extensions[RELOADER] = self
        # One reload at a time. File and database are read under it, but no request waits for it.
        self._reloading = threading.Lock()

    def start(self) -> None:
        """Watch the files, if there are any.

        A worker that replaces one that was killed reloads before it serves, where the file has
        changed since its settings were read.
        """
        if not self._paths:
            return
        if self._versions() != self._known:
            self._known = self._versions()
            self.reload()
        threading.Thread(target=self._watch, daemon=True).start()

    def request(self) -> None:
        """Reload soon. Safe in a signal handler."""
        if not self._paths:
            in_background(self.reload)
        else:
            self._is_requested = True

    def look(self) -> None:
        """Reload if there is a reason to, and the files are as they were at the last look.

        Polling needs no library and sees every way to replace a file, also on network mounts.
        """
        versions = self._versions()
        is_still, self._seen = versions == self._seen, versions
        if is_still and (self._is_requested or versions != self._known):
            self._is_requested, self._known = False, versions
            self.reload()

    def reload(self) -> None:
        """Read the settings and use them, or log why not."""
        status = composition_of(self._app).live.settings
        with self._reloading:
            # What is read now is no reason for the watcher to read it again.
            self._known = self._versions()
            try:
                settings = self._read()
                if any(file_version(file.path) != file.version for file in settings.files):
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
                self.needs_restart = tuple(needs_restart)
                names = ", ".join(needs_restart)
                notice = f"; changed, but applied only by a restart: {names}" if names else ""
                log.info("the settings were reloaded%s", notice)
                self._answer(ReloadAnswer(None, notice))
                return
            self._answer(ReloadAnswer(status.problem))

    def check(self, settings: Config) -> None:
        """Raises ConfigError for settings that the listening sockets do not permit."""
        self._check(settings)

    def _versions(self) -> tuple[FileVersion | None, ...]:
        return tuple(map(file_version, self._paths))

    def _watch(self) -> None:
        while True:
            time.sleep(_POLL_SECONDS)
            self.look()
