"""What the upstreams tell whoever counts: plain words, for they know nothing of metrics."""

from __future__ import annotations


class Telemetry:
    """Is told what happens; does nothing with it. Each method returns at once, and never raises.

    Times are seconds.
    """

    def called(self, call: str, status: int | None) -> None:
        """The horde's API was called; `call` has no ids. `status` is None where none came."""

    def held_back(self, seconds: float) -> None:
        """A submit had to stand in line at the gate, and does no longer."""

    def cancelled(self) -> None:
        """A request is cancelled on the horde before its end."""

    def retried(self, reason: str) -> None:
        """Something is asked for again. `reason`: "faulted", "lost", "bad_text" or "misfit"."""

    def late(self, seconds: float) -> None:
        """A request ended so much later than expected at its submit; 0: in time."""

    def hit(self, cache: str) -> None:
        """A value was given from memory."""

    def refreshed(self, cache: str, ok: bool) -> None:
        """A value was loaded anew, or could not be."""


NO_TELEMETRY = Telemetry()
