"""Whether the machine of one server is awake, and how it is woken.

             a load of its models, or the short look before a request, finds it
          +---------------------------------------------------------------------+
          v                                                                     |
        AWAKE --it cannot be reached, or its idle hook ran--> ASLEEP --wake()--> WAKING
                                                                ^                 |
                                                                +--boot_seconds---+

    request thread      check() before a request; wake(); waits until the WakeUp `has_ended`
    background thread   WAKING: a packet every few seconds and a look every second
    loading thread      calls answered() or unreachable(), see openai/kept_models.py

While ASLEEP, nothing is sent to the machine: some network cards wake it for any packet. All clients
wait for one WakeUp. The router decides which endpoint is woken, and what its clients see meanwhile.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from horde_proxy.caching.background import in_background, later_in_background
from horde_proxy.errors import ProxyError, Unreachable
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.wake_on_lan import Datagram, SendDatagram, send_datagram

LOOK_SECONDS = 1.0
"""Between two looks at a machine that boots: a client waits for the end of its boot."""
_PACKET_SECONDS = 5.0
"""Between two packets. One may be lost, or come while the machine is still falling asleep."""
_SURE_SECONDS = 5.0
"""How long an answer proves that the machine is awake: it takes a few seconds to fall asleep."""
_SETTLE_SECONDS = 10.0
"""After an idle hook: a machine that is told to sleep answers until it does."""

log = logging.getLogger(__name__)


class PowerState(Enum):
    """The states of a machine; the values are what people read."""

    AWAKE = "awake"
    ASLEEP = "asleep"
    WAKING = "waking"


@dataclass(eq=False)
class WakeUp:
    """One try to wake a machine, which began at `began`. `error` says why it failed."""

    began: float
    has_ended: bool = False
    error: ProxyError | None = None


class Power:
    """The machine of the endpoint `name`. Times are in seconds, on `clock`.

    `packets` wake it. `answers` is the short look: whether the server takes connections.
    `look_by` is given a function that begins to load the server's models in the background.
    """

    def __init__(
        self,
        name: str,
        packets: Sequence[Datagram],
        answers: Callable[[], bool],
        *,
        boot_seconds: float = 120.0,
        send: SendDatagram = send_datagram,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = in_background,
        run_later: Callable[[float, Callable[[], None]], None] = later_in_background,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._name, self._packets, self._answers = name, packets, answers
        self._boot_seconds, self._send, self.clock = boot_seconds, send, clock
        self._run, self._run_later, self._telemetry = run, run_later, telemetry
        self._look: Callable[[], None] = lambda: None
        # Guards changes of the state and of all fields below; no I/O under it.
        self._lock = threading.Lock()
        self._wake_up: WakeUp | None = None
        self._is_asleep = False
        self._answered_at = self._packet_at = self._settles_at = -math.inf
        self._last_boot: float | None = None

    @property
    def state(self) -> PowerState:
        """The state, as far as it is known."""
        if not self._is_asleep:
            return PowerState.AWAKE
        return PowerState.ASLEEP if self._wake_up is None else PowerState.WAKING

    @property
    def is_awake(self) -> bool:
        """Whether the machine is awake, as far as it is known."""
        return not self._is_asleep

    def look_by(self, look: Callable[[], None]) -> None:
        """Look for the server by this function while the machine boots."""
        self._look = look

    def may_look(self) -> bool:
        """Whether anything may be sent to the server now."""
        is_quiet = self.state is PowerState.ASLEEP
        return not is_quiet and self.clock() >= self._settles_at

    def seconds_to_wake(self) -> float:
        """The expected time until the machine is awake: 0 if it is, else as its last boot took."""
        if not self._is_asleep:
            return 0.0
        wake_up = self._wake_up
        expected = self._boot_seconds if self._last_boot is None else self._last_boot
        waited = self.clock() - wake_up.began if wake_up else 0.0
        # A boot that takes longer than the last one may still take its whole time.
        left = expected - waited if waited < expected else self._boot_seconds - waited
        return max(left, LOOK_SECONDS)

    def check(self) -> bool:
        """Whether the machine is awake. Looks at it where it has not answered for a while.

        A connection to a machine that sleeps is not refused, it times out: the look is short.
        """
        if not self._is_asleep and self.clock() - self._answered_at > _SURE_SECONDS:
            if self._answers():
                self.answered()
            else:
                self.unreachable()
        return not self._is_asleep

    def answered(self) -> None:
        """Note that the server answered: the machine is awake, and has booted."""
        with self._lock:
            now = self.clock()
            # It is told to sleep, and has not done so yet.
            if now < self._settles_at:
                return
            wake_up, self._wake_up = self._wake_up, None
            self._is_asleep, self._answered_at = False, now
            if wake_up:
                self._last_boot = now - wake_up.began
        if wake_up:
            wake_up.error, wake_up.has_ended = None, True
            log.info("%s is awake after %.0f s", self._name, now - wake_up.began)
            self._telemetry.woken(self._name, now - wake_up.began)

    def unreachable(self) -> None:
        """Note that the server cannot be reached: an awake machine has fallen asleep."""
        with self._lock:
            is_news, self._is_asleep = not self._is_asleep, True
        if is_news:
            log.info("%s is asleep: it does not answer", self._name)

    def put_to_sleep(self) -> None:
        """Note that the machine is being told to sleep; see `sleep_command_ended`."""
        with self._lock:
            self._is_asleep, self._settles_at = True, math.inf

    def sleep_command_ended(self, *, is_done: bool) -> None:
        """Note that the machine was told to sleep (`is_done`), or that this failed."""
        with self._lock:
            self._settles_at = self.clock() + _SETTLE_SECONDS if is_done else -math.inf
            # Nobody has begun to wake it meanwhile, and it was awake before.
            self._is_asleep = is_done or self._wake_up is not None

    def wake(self) -> WakeUp:
        """The running try to wake the machine, or a new one."""
        with self._lock:
            is_new = self._wake_up is None
            wake_up = self._wake_up = self._wake_up or WakeUp(self.clock())
            self._is_asleep = True
            if is_new:
                self._packet_at = -math.inf
        if is_new:
            log.info("waking %s", self._name)
            self._start(wake_up, lambda: self._run(lambda: self._step(wake_up)))
        return wake_up

    def _start(self, wake_up: WakeUp, start: Callable[[], None]) -> None:
        """Start a thread. Without one nobody would ever end the wake-up, so that it fails."""
        try:
            start()
        except RuntimeError:
            wake_up.error = Unreachable("it cannot be woken: this proxy cannot start a thread")
            self._give_up(wake_up)

    def _step(self, wake_up: WakeUp) -> None:
        """Send what is due, and look; again a second later, until this wake-up has ended."""
        now = self.clock()
        # Another one may have begun since, which has steps of its own.
        if self._wake_up is not wake_up:
            return
        if now - wake_up.began >= self._boot_seconds:
            self._give_up(wake_up)
            return
        if now - self._packet_at >= _PACKET_SECONDS:
            self._packet_at = now
            self._send_packets(wake_up)
        if self.may_look():
            self._look()
        self._start(wake_up, lambda: self._run_later(LOOK_SECONDS, lambda: self._step(wake_up)))

    def _send_packets(self, wake_up: WakeUp) -> None:
        """Send all packets; one that cannot be sent is a reason only where none can."""
        problems = []
        for datagram in self._packets:
            try:
                self._send(datagram)
            # A ValueError is about a host whose name cannot be one, as "desktop..lan".
            except (OSError, ValueError) as exc:
                problems.append(f"{datagram.host}: {getattr(exc, 'strerror', None) or exc}")
        is_lost = len(problems) == len(self._packets)
        reason = f"it cannot be woken: no packet can be sent ({'; '.join(problems)})"
        wake_up.error = Unreachable(reason) if is_lost else None

    def _give_up(self, wake_up: WakeUp) -> None:
        with self._lock:
            # It may have answered, just now.
            if self._wake_up is not wake_up:
                return
            self._wake_up = None
        wake_up.error = wake_up.error or Unreachable(
            f"it did not wake up within {self._boot_seconds:.0f} s. The owner of this proxy should "
            "look at `wake`, at Wake-on-LAN in the settings of its machine, and at `boot_seconds`"
        )
        wake_up.has_ended = True
        log.warning("%s failed to wake up: %s", self._name, wake_up.error)
        self._telemetry.woken(self._name, None)
