"""What a worker does wrong: failed jobs, and speeds that nobody believes. Pure.

Only moderators see the suspicions. Two processes may note a fault at the same moment, and one of
them is lost then; the limit is no exact one.
"""

from __future__ import annotations

from math import inf

from horde_proxy.private_horde.records import IMAGE, TEXT, Worker

_HOUR = 3600.0
_MOST_FAULTS = 20
"""Failed jobs of an hour; with one more, the worker goes into maintenance (worker.py:527-556)."""
_UNBELIEVABLE = {TEXT: (150.0, "tokens"), IMAGE: (20_000_000.0, "pixel-steps")}
"""What a worker does in a second that the real horde suspects of cheating (horde-api-2.md)."""
_MOST_SUSPICIONS = 20

FAULTY = (
    "This worker has dropped more than 20 jobs within an hour, so it was put into maintenance. "
    "Mend it, then end the maintenance."
)
"""The message of a maintenance that the horde has begun."""


def note_fault(worker: Worker, now: float) -> None:
    """Count a failed job. Too many within an hour put the worker into maintenance."""
    recent = [time for time in worker.faults if 0 <= now - time < _HOUR]
    worker.faults = (*recent, now)
    if len(worker.faults) <= _MOST_FAULTS:
        return
    # The count begins anew, so that the worker has a chance after its maintenance.
    worker.faults = ()
    if not worker.maintenance:
        worker.maintenance, worker.maintenance_message = True, FAULTY
        _suspect(worker, "It dropped more than 20 jobs within an hour.")


def note_speed(worker: Worker, speed: float) -> None:
    """Suspect an untrusted worker that delivered faster than any does."""
    most, unit = _UNBELIEVABLE.get(worker.kind, (inf, ""))
    if speed > most and not worker.trusted:
        _suspect(worker, f"It delivered {speed:.0f} {unit} per second.")


def _suspect(worker: Worker, sentence: str) -> None:
    others = [known for known in worker.suspicions if known != sentence]
    worker.suspicions = (*others, sentence)[-_MOST_SUSPICIONS:]
