"""What upstreams and caches report while they work. They know nothing of metrics.

The base class ignores all reports; metrics.py counts them.
"""

from __future__ import annotations


class Telemetry:
    """Receives reports. Each method returns at once and never raises. Times are in seconds."""

    def called(self, call: str, status: int | None) -> None:
        """The horde's API was called. `call` holds no ids. `status` is None without a response."""

    def held_back(self, seconds: float) -> None:
        """A submit has left the submit queue after so many seconds."""

    def in_line(self, endpoint: str, seconds: float) -> None:
        """A request has left the line before an endpoint after so many seconds."""

    def cancelled(self) -> None:
        """A request was cancelled on the horde before its end."""

    def retried(self, reason: str) -> None:
        """A request is repeated. `reason`: "faulted", "lost", "bad_text", "misfit" or "hung".

        For the last one, the first request goes on beside the second.
        """

    def late(self, seconds: float) -> None:
        """A request ended so many seconds later than estimated at its submit; 0: in time."""

    def hit(self, cache: str) -> None:
        """A cached value was used."""

    def refreshed(self, cache: str, ok: bool) -> None:
        """A load of a cached value ended; `ok`: it succeeded."""

    def woken(self, endpoint: str, seconds: float | None) -> None:
        """A machine that slept answered after so many seconds; None: it did not wake up."""

    def idle_hook_ran(self, endpoint: str, ok: bool) -> None:
        """The hook of an endpoint that nobody uses has ended; `ok`: it succeeded."""


NO_TELEMETRY = Telemetry()
