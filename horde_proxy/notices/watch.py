"""Looks at the facts every half minute, and sends what is due. No request waits for it.

    observe -> BAD for its delay --SentNotices.add--> send the bad notice
            -> GOOD              --SentNotices.remove--> send the good one, if the bad one was sent

One thread for each process, from the first request on, if the settings name a target. A notice
that does not arrive is taken back, and sent again after a pause.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from horde_proxy.caching.lazy_thread import LazyThread
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import ShuttingDown
from horde_proxy.notices.conditions import (
    Facts,
    Notice,
    NoticeLimits,
    Observation,
    Standing,
    observations,
)
from horde_proxy.notices.sent_notices import SentInMemory, SentNotices
from horde_proxy.notices.targets import Post, Target

INTERVAL = 30.0
"""Seconds between two looks. Lists of models are a minute old at most."""
_RETRY = 300.0
"""Seconds before a notice that did not arrive is sent again."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NoticeOptions:
    """What is sent, and to whom. `facts` is called by the watch's thread.

    `sent` is where it is remembered; None: in memory, also through a reload.
    """

    targets: Sequence[Target]
    limits: NoticeLimits
    post: Post
    facts: Callable[[], Facts]
    sent: SentNotices | None = None


class NoticeWatch:
    """Sends notices. `options` returns those of the settings in use, None for no notices.

    `sleep` ends the thread by raising ShuttingDown. `clock` counts seconds, `now` is Unix time.
    """

    def __init__(
        self,
        options: Callable[[], NoticeOptions | None],
        *,
        clock: Callable[[], float],
        now: Callable[[], float],
        sleep: Callable[[float], None],
        run_loop: Callable[[Callable[[], None]], None],
    ) -> None:
        self._options, self._clock, self._now = options, clock, now
        self._sleep, self._thread = sleep, LazyThread(self._loop, run_loop)
        # The watch's own thread alone uses these: since when a subject is bad, which ones are good
        # and have nothing left to send, and when what did not arrive may be sent again.
        self._bad_since: dict[str, float] = {}
        self._settled: set[str] = set()
        self._again_at: dict[str, float] = {}
        self._memory = SentInMemory()

    def ensure_started(self) -> None:
        """Start the thread, if there is a target. Cheap enough for every request."""
        if self._options() is not None:
            self._thread.ensure_started()

    def look(self) -> None:
        """Send what is due now. Logs what fails."""
        options = self._options()
        if options is None:
            return
        seen = list(observations(options.facts(), options.limits))
        try:
            sent = self._sent(options).keys()
            for observation in seen:
                self._handle(options, observation, sent)
        except DatabaseError as exc:
            log.warning("notices cannot be sent: %s", exc)

    def _sent(self, options: NoticeOptions) -> SentNotices:
        return options.sent or self._memory

    def _loop(self) -> None:
        try:
            while True:
                self._sleep(INTERVAL)
                try:
                    self.look()
                # The last guard: a fault of one look must not end all later ones.
                except Exception:
                    log.exception("a look for notices failed")
        except ShuttingDown:
            return

    def _handle(self, options: NoticeOptions, seen: Observation, sent: set[str]) -> None:
        if seen.standing is Standing.BAD:
            self._settled.discard(seen.key)
            since = self._bad_since.setdefault(seen.key, self._clock())
            if self._clock() - since >= seen.delay:
                self._send_to_all(options, seen, sent)
            return
        self._bad_since.pop(seen.key, None)
        if seen.standing is Standing.UNKNOWN:
            self._settled.discard(seen.key)
        # Another host may see as bad what was good here all the time: it takes its notice back.
        elif seen.key not in self._settled and self._send_to_all(options, seen, sent):
            self._settled.add(seen.key)

    def _send_to_all(self, options: NoticeOptions, seen: Observation, sent: set[str]) -> bool:
        """Send the notice of a subject where it was not sent. Whether nothing is left to send."""
        is_bad = seen.standing is Standing.BAD
        notice = seen.bad if is_bad else seen.good
        keys = {f"{target.name}: {seen.key}": target for target in options.targets}
        due = {key: target for key, target in keys.items() if (key in sent) is not is_bad}
        # All are tried, also after one that does not arrive.
        is_done = [self._send_once(options, due[key], notice, key) for key in due]
        return all(is_done)

    def _send_once(self, options: NoticeOptions, target: Target, notice: Notice, key: str) -> bool:
        """Send a notice unless another process does. One that does not arrive is taken back."""
        if self._clock() < self._again_at.get(key, 0.0):
            return False
        sent = self._sent(options)
        claim, undo = (sent.add, sent.remove) if notice.is_bad else (sent.remove, sent.add)
        if not claim(key):
            return True
        failure = target.send(notice, self._now(), options.post)
        if failure is None:
            self._again_at.pop(key, None)
            log.info("notice sent to %s: %s", target.name, notice.event)
            return True
        self._again_at[key] = self._clock() + _RETRY
        log.warning("the notice %s did not reach %s: %s", notice.event, target.name, failure)
        undo(key)
        return False
