"""What a horde has forbidden this proxy for a time, so that nothing is submitted before the end.

    a refusal    TimeoutIP, UntrustedUnsafeIP, CorruptPrompt --note()--> kept, also for a restart
    a submit     check() --> Penalized until the end; another endpoint may answer

Any thread may call any method. Hosts that share a Redis count as one address, as in their pace.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from horde_proxy.aihorde import penalties as facts
from horde_proxy.caching.notes import NoNotes, Notes
from horde_proxy.errors import Unavailable
from horde_proxy.key_digest import key_digest
from horde_proxy.numbers import finite

_REASONS = {
    facts.TIMEOUT: "has put this proxy's address in time-out",
    facts.CORRUPT_PROMPT: "suspects this proxy's address, after a prompt that its filter refused",
}
_UNSAFE = "takes nothing of this kind from this proxy's address, which it holds for a VPN's"
_DIGEST = 16
"""Hex digits of a key's digest in a note: enough to tell the few keys of one proxy apart."""


class Penalized(Unavailable):
    """The horde takes nothing from this proxy before the end of a penalty.

    A 503, so that another endpoint or a fallback may answer; `x-should-retry: false`, because no
    SDK waits as long as most penalties last. Batches do.
    """

    code = "horde_penalty"
    should_retry = False
    jobs_wait = True


@dataclass(frozen=True)
class Penalty:
    """One penalty: the horde's `code`, and its end (Unix s).

    `kinds` are those of the jobs that it is for, () for all. `account` is the beginning of the
    digest of the key that it is for, "" for all. `strikes`: prompts that were refused within the
    day, this one included.
    """

    code: str
    until: float
    kinds: tuple[str, ...] = ()
    account: str = ""
    strikes: int = 0

    def covers(self, kind: str, account: str) -> bool:
        """Whether it keeps out jobs of this kind that this account pays for."""
        return kind in (self.kinds or (kind,)) and self.account in ("", account)

    def message(self) -> str:
        """What the horde does, and until when."""
        end = datetime.fromtimestamp(math.ceil(self.until), UTC)
        reason = _REASONS.get(self.code, _UNSAFE)
        return f"The horde {reason} ({self.code}), until {end:%Y-%m-%d %H:%M:%S} UTC."

    def as_json(self, now: float) -> dict[str, Any]:
        """What clients may know of it. `seconds_left` is rounded up."""
        return {
            "code": self.code,
            "until": math.ceil(self.until),
            "seconds_left": math.ceil(self.until - now),
            "kinds": sorted(self.kinds),
            "message": self.message(),
        }


class Penalties:
    """The penalties of one horde. `notes` keeps them for after a restart; `now` is Unix time."""

    def __init__(self, notes: Notes | None = None, *, now: Callable[[], float] = time.time) -> None:
        self._notes, self._now = notes or NoNotes(), now
        # Guards `_own`: those that this process was told of, by name. No I/O happens under it.
        self._lock = threading.Lock()
        self._own: dict[str, Penalty] = {}

    def check(self, kind: str, api_key: str) -> None:
        """Raises Penalized while the horde takes no jobs of this kind that this key pays for."""
        account = _account(api_key)
        covering = [penalty for penalty in self.current() if penalty.covers(kind, account)]
        if covering:
            raise self.refusal(max(covering, key=lambda penalty: penalty.until))

    def current(self) -> list[Penalty]:
        """The penalties that have not ended, the longest first."""
        now = self._now()
        left = [penalty for penalty in self._all().values() if penalty.until > now]
        return sorted(left, key=lambda penalty: -penalty.until)

    def refusal(self, penalty: Penalty) -> Penalized:
        """The error for a request that a penalty keeps out."""
        seconds = max(math.ceil(penalty.until - self._now()), 1)
        return Penalized(f"{penalty.message()} Wait, or use another model.", retry_after=seconds)

    def note_timeout(self, seconds: float) -> Penalty:
        """The horde refuses this address for so many seconds more."""
        return self._note(Penalty(facts.TIMEOUT, self._now() + seconds))

    def note_unsafe(self, code: str, kind: str, api_key: str) -> Penalty:
        """The horde refuses jobs of this kind from this address, paid for by this account."""
        kinds = facts.PICTURE_KINDS if kind in facts.PICTURE_KINDS else {kind}
        until = self._now() + facts.UNSAFE_SECONDS
        return self._note(Penalty(code, until, tuple(sorted(kinds)), _account(api_key)))

    def note_corrupt_prompt(self) -> Penalty:
        """The horde refused a prompt, which it counts as a strike against this address."""
        before = self._all().get(facts.CORRUPT_PROMPT)
        strikes = before.strikes if before else 0
        until = self._now() + facts.strike_seconds(strikes)
        penalty = Penalty(facts.CORRUPT_PROMPT, until, strikes=strikes + 1)
        return self._note(penalty, facts.STRIKES_SECONDS)

    def _note(self, penalty: Penalty, seconds: float = 0.0) -> Penalty:
        """Keep it until its end, and at least for so many seconds."""
        # Pictures and texts of an account are kept out for as long as each was refused.
        name = " ".join(filter(None, (penalty.code, penalty.account, *penalty.kinds)))
        with self._lock:
            self._own[name] = penalty
        self._notes.put(name, asdict(penalty), max(penalty.until, self._now() + seconds))
        return penalty

    def _all(self) -> dict[str, Penalty]:
        """All that are known, those of other processes included; of one name, the later end."""
        with self._lock:
            known = dict(self._own)
        for name, note in self._notes.all().items():
            penalty = _penalty(note)
            if penalty and (name not in known or known[name].until < penalty.until):
                known[name] = penalty
        earliest = self._now() - facts.STRIKES_SECONDS
        return {name: penalty for name, penalty in known.items() if penalty.until > earliest}


def _account(api_key: str) -> str:
    return key_digest(api_key)[:_DIGEST]


def _penalty(note: Mapping[str, Any]) -> Penalty | None:
    """A penalty from a note; None for one that does not fit, as of another version."""
    until, kinds, strikes = finite(note.get("until")), note.get("kinds"), note.get("strikes")
    if until is None or not isinstance(kinds, list) or not isinstance(strikes, int):
        return None
    code, account = str(note.get("code")), str(note.get("account") or "")
    return Penalty(code, until, tuple(map(str, kinds)), account, strikes)
