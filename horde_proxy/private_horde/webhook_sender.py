"""Calls the webhooks of delivered jobs, in the background.

    submit of a worker --> wake() --> a thread of the runner: look()
    look(): takes due calls in a transaction, and begins a thread for each
    thread: sends; then deletes the call or sets its next attempt, and looks again

A call that is taken is due again after `_LEASE_SECONDS`, so that another process or the next start
sends it if this process ends. At most two calls to one host run at a time, and eight in all: a
receiver that does not answer delays no others.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from horde_proxy.database.errors import DatabaseError
from horde_proxy.private_horde import webhooks
from horde_proxy.private_horde.operation import Begin, Operation
from horde_proxy.private_horde.records import WebhookCall

_MOST_RUNNING, _MOST_OF_A_HOST = 8, 2
_MOST_WAITING = 10_000
_BATCH = 50
_LEASE_SECONDS = 60.0
"""A call takes 10 s at most."""
_BUSY_SECONDS = 1.0
"""How long a call to a busy host steps back, so that those behind it are found."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WebhookRunner:
    """How calls are made: `send` returns None, or why a call failed; see `Runtime` for the rest."""

    send: Callable[[str, bytes, Mapping[str, str]], str | None]
    run: Callable[[Callable[[], None]], None]
    run_later: Callable[[float, Callable[[], None]], None]


class WebhookSender:
    """The webhooks of one process. Thread-safe."""

    def __init__(self, begin: Begin, runner: WebhookRunner) -> None:
        self._begin, self._runner = begin, runner
        # Held by the thread that looks; another's wish to look is remembered.
        self._looking = threading.Lock()
        # Guards the fields below. No I/O happens under it.
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._wants_look = self._has_warned = False
        self._timer_at: float | None = None

    def is_full(self, op: Operation) -> bool:
        """Whether so many calls wait that no more are taken; the log says so once."""
        # Only the store knows: other processes add calls and make them as well.
        last = _MOST_WAITING - 1
        if not op.tx.page(WebhookCall, "id", descending=False, offset=last, limit=1):
            self._has_warned = False
            return False
        if not self._has_warned:
            self._has_warned = True
            log.warning("%d calls of webhooks wait; further ones are not made", _MOST_WAITING)
        return True

    def wake(self) -> None:
        """Look for due calls in the background."""
        self._runner.run(self.look)

    def look(self) -> None:
        """Begin the due calls that may run now."""
        self._wants_look = True
        while self._wants_look and self._looking.acquire(blocking=False):
            try:
                self._wants_look = False
                self._look_once()
            except DatabaseError as exc:
                log.warning("webhooks are not called: %s", exc)
                self._runner.run_later(_LEASE_SECONDS, self.look)
            finally:
                self._looking.release()

    def _look_once(self) -> None:
        with self._begin() as op:
            due = op.tx.due(WebhookCall, op.now, _BATCH)
            taken = [call for call in due if self._take(op, call)]
            following = op.tx.next_due(WebhookCall)
            now = op.now
        for call in taken:
            self._runner.run(_sending(self, call))
        if following is not None:
            self._look_at(max(following, now + _BUSY_SECONDS), now)

    def _take(self, op: Operation, call: WebhookCall) -> bool:
        """Whether a call may be made now, by this process."""
        locked = op.tx.try_lock(WebhookCall, call.id)
        if locked is None or locked.due > op.now:
            return False
        host = webhooks.host_of(locked.url)
        if not host:
            op.tx.delete(locked)
            log.warning("the webhook of request %s has no host: not called", locked.request_id)
            return False
        may_run = self._enter(host)
        locked.due = op.now + (_LEASE_SECONDS if may_run else _BUSY_SECONDS)
        locked.attempts += may_run
        op.tx.save(locked)
        return may_run

    def _enter(self, host: str) -> bool:
        with self._lock:
            is_busy = self._running[host] >= _MOST_OF_A_HOST
            if is_busy or self._running.total() >= _MOST_RUNNING:
                return False
            self._running[host] += 1
            return True

    def send(self, taken: WebhookCall) -> None:
        """Make one call that was taken, and note what came of it."""
        try:
            with self._begin() as op:
                content, now = webhooks.body(op, taken), op.now
            failure = None
            if content is not None:
                headers = webhooks.headers(taken, content, now)
                failure = self._runner.send(taken.url, content, headers)
            self._settle(taken, failure)
        except DatabaseError as exc:
            log.warning("a webhook's call is repeated later: %s", exc)
        finally:
            with self._lock:
                self._running[webhooks.host_of(taken.url)] -= 1
                self._running += Counter()
        self.look()

    def _settle(self, taken: WebhookCall, failure: str | None) -> None:
        with self._begin() as op:
            call = op.tx.lock(WebhookCall, taken.id)
            if call is None:
                return
            if failure is None or call.attempts > len(webhooks.RETRY_SECONDS):
                op.tx.delete(call)
            else:
                call.due = op.now + webhooks.RETRY_SECONDS[call.attempts - 1]
                op.tx.save(call)
        if failure is not None:
            log.warning(
                "attempt %d to call the webhook of request %s at %s failed: %s",
                taken.attempts,
                taken.request_id,
                webhooks.host_of(taken.url),
                failure,
            )

    def _look_at(self, at: float, now: float) -> None:
        """Look again at a time, or earlier; there is one timer, and rarely an outdated one."""
        at = min(at, now + _LEASE_SECONDS)
        with self._lock:
            if self._timer_at is not None and now < self._timer_at <= at:
                return
            self._timer_at = at
        self._runner.run_later(at - now, lambda: self._on_time(at))

    def _on_time(self, at: float) -> None:
        with self._lock:
            if self._timer_at == at:
                self._timer_at = None
        self.look()


def _sending(sender: WebhookSender, call: WebhookCall) -> Callable[[], None]:
    return lambda: sender.send(call)
