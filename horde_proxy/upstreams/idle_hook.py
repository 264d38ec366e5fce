"""What runs once nobody has used an endpoint for a while: a command, or a POST to a URL.

    used  --no request for `after` seconds--> the hook runs --> idle, until the next request

One timer looks again when the time may have passed. It is the only thread that runs the hook. The
hook puts a machine to sleep, or unloads a model; this module does not know which. Where several
proxies share a Redis, each notes its use there, and one of them runs the hook once none uses the
endpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import IO, Protocol

import requests

from horde_proxy import printable
from horde_proxy.caching.background import later_in_background
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.power import Power
from horde_proxy.upstreams.sessions import new_session
from horde_proxy.version import VERSION

_SHARED_LOOK = 5.0
"""Seconds between two looks of proxies that share their use: another one may put the machine to
sleep under a request that is younger, so the shorter the better."""
_COMMAND_SECONDS = 60.0
"""The longest time that a command may take: it tells a machine something, over ssh for example."""
_POST_SECONDS = (5.0, 30.0)
"""Seconds to connect, and to wait for the answer."""
_KILL_SECONDS = 5.0
"""How long a killed command is waited for."""
_MOST_ERRORS = 1_000_000
"""Bytes of a command's errors: one that repeats an error for ever is killed."""
_LOOK_SECONDS = 0.1
"""Between two looks at what it has written (s)."""
_LONGEST_MESSAGE = 300
"""Characters of a command's errors that the log gets."""
# What a program needs to find others and its user's files. The proxy's own settings and keys, which
# may be variables too, are not a hook's business.
_VARIABLES = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TZ",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "DBUS_SESSION_BUS_ADDRESS",
    "STATE_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
)

log = logging.getLogger(__name__)

Hook = str | Sequence[str]
"""A URL, or the words of a command."""
RunHook = Callable[[Hook, str, float], str | None]
"""Runs a hook for the endpoint of a name that was idle for so many seconds.

Returns None, or why it failed in a few words.
"""


class EndpointUse(Protocol):
    """The use of an endpoint: the number of running requests, and when the last one was there."""

    @property
    def running(self) -> int: ...
    @property
    def used_at(self) -> float: ...


class SharedUse(Protocol):
    """The use of endpoints by other proxies, too; see caching.shared_use."""

    def note(self, name: str, seconds: float) -> None: ...
    def is_used_elsewhere(self, name: str) -> bool: ...
    def claim(self, name: str, seconds: float) -> bool: ...


class IdleHook:
    """Runs the hook of the endpoint `name` once it was not used for `after` seconds.

    `power` is the machine of a server that the hook puts to sleep. `shared` has the use of other
    proxies, which is known by `server`, the same word at each of them.
    """

    def __init__(
        self,
        name: str,
        hook: Hook,
        after: float,
        use: EndpointUse,
        *,
        run_hook: RunHook,
        power: Power | None = None,
        shared: SharedUse | None = None,
        server: str = "",
        clock: Callable[[], float] = time.monotonic,
        run_later: Callable[[float, Callable[[], None]], None] = later_in_background,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._name, self._hook, self._after, self._use = name, hook, after, use
        self._power, self._run_hook = power, run_hook
        self._clock, self._run_later, self._telemetry = clock, run_later, telemetry
        self._shared, self._server = shared, server or name
        self._ran_after: float | None = None
        self._noted: float | None = None
        self._is_stopped = False

    def start(self) -> None:
        """Begin to count; the start of the proxy counts as a use."""
        self._run_later(self._pause(self._after), self._look)

    def stop(self) -> None:
        """Never run the hook again: the settings have changed."""
        self._is_stopped = True

    def _look(self) -> None:
        """Run the hook if it is time; look again when it may be time next."""
        if self._is_stopped:
            return
        used_at = self._use.used_at
        idle = 0.0 if self._use.running else self._clock() - used_at
        is_due = idle >= self._after
        try:
            if self._shared is not None:
                is_due = self._is_due_everywhere(self._shared, used_at, idle)
            if is_due and self._ran_after != used_at:
                self._ran_after = used_at
                if self._shared is None or self._shared.claim(self._server, self._after / 2):
                    self._run(idle)
        finally:
            left = self._after if is_due else max(self._after - idle, 0.0)
            self._run_later(self._pause(left), self._look)

    def _is_due_everywhere(self, shared: SharedUse, used_at: float, idle: float) -> bool:
        """Whether neither this proxy nor another one has used the endpoint for long enough."""
        if idle < self._after:
            if self._use.running or used_at != self._noted:
                self._noted = used_at
                shared.note(self._server, self._after - idle)
            return False
        if shared.is_used_elsewhere(self._server):
            # Whoever uses it may end before its time has passed: then it is this one's turn again.
            self._ran_after = None
            return False
        return True

    def _pause(self, seconds: float) -> float:
        """The seconds until the next look."""
        return seconds if self._shared is None else _SHARED_LOOK

    def _run(self, idle: float) -> None:
        power = self._power
        if power is not None:
            # A machine that sleeps by itself needs no hook, and a command would hang there.
            if not power.check():
                return
            # A request is counted before it looks at the machine, so that one of the two sees the
            # other: no machine falls asleep under a request.
            power.put_to_sleep()
            if self._use.running:
                power.sleep_command_ended(is_done=False)
                return
        problem: str | None = "it cannot be run"
        try:
            problem = self._run_hook(self._hook, self._name, idle)
        # Whatever it raises, the machine was not told to sleep, and counts as awake.
        except Exception:
            log.exception("the idle_hook of %s cannot be run", self._name)
        finally:
            if power is not None:
                power.sleep_command_ended(is_done=problem is None)
        self._telemetry.idle_hook_ran(self._name, problem is None)
        if problem is None:
            log.info("%s was idle for %.0f s: its idle_hook ran", self._name, idle)
        else:
            log.warning("the idle_hook of %s failed: %s", self._name, problem)


def run_hook(hook: Hook, endpoint: str, idle: float) -> str | None:
    """Post to the URL, or run the command. None, or why it failed in a few words."""
    return _post(hook, endpoint, idle) if isinstance(hook, str) else _command(hook, endpoint)


def _post(url: str, endpoint: str, idle: float) -> str | None:
    body = {"event": "idle", "endpoint": endpoint, "idle_seconds": round(idle)}
    with new_session() as session:
        try:
            response = session.post(
                url,
                json=body,
                headers={"User-Agent": f"horde-proxy/{VERSION}"},
                timeout=_POST_SECONDS,
                allow_redirects=False,
                stream=True,
            )
        except (requests.RequestException, ValueError) as exc:
            # The whole message may contain the URL, and so a secret of the receiver.
            return f"its URL cannot be reached ({type(exc).__name__})"
        response.close()
    return None if response.status_code < 300 else f"its URL answered {response.status_code}"


def _command(words: Sequence[str], endpoint: str) -> str | None:
    """Run a program, without a shell and with few variables of the environment."""
    environ = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    # A file, not a pipe: a program that it leaves behind could keep a pipe open for ever.
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                list(words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**environ, "HORDE_PROXY_ENDPOINT": endpoint},
                start_new_session=True,
            )
        except OSError as exc:
            return f"{words[0]} cannot be started: {exc.strerror or exc}"
        status = _status(process, errors)
        if isinstance(status, str):
            return f"{words[0]} {status}, and was killed"
        errors.seek(0)
        message = errors.read(_LONGEST_MESSAGE * 4).decode("utf-8", "replace")
    if status == 0:
        return None
    said = printable.one_line(message.strip(), _LONGEST_MESSAGE)
    return f"{words[0]} ended with status {status}: {said or 'it wrote no error'}"


def _status(process: subprocess.Popen[bytes], errors: IO[bytes]) -> int | str:
    """The status of a command that has ended, or why it was killed."""
    until = time.monotonic() + _COMMAND_SECONDS
    while time.monotonic() < until:
        try:
            return process.wait(_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            # It fills the temporary folder, which may be the machine's memory.
            if os.fstat(errors.fileno()).st_size > _MOST_ERRORS:
                _kill(process)
                return f"wrote more than {_MOST_ERRORS // 1_000_000} MB of errors"
    _kill(process)
    return f"took longer than {_COMMAND_SECONDS:.0f} s"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command with all that it started, which is in a session of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(_KILL_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        log.warning("a command cannot be killed: process %d", process.pid)
