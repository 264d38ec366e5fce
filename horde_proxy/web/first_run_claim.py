"""Who may lead a new proxy through its first settings, where strangers reach it. No Flask here.

    new proxy, reachable by others -> a code in the journal or terminal -> the form of the page
      -> right: a cookie for two hours, and the code is used up
      -> wrong: counted; after MOST_WRONG of them there is another code in the journal

Whoever reads the journal owns the machine, so the code proves that. It is worth nothing once the
proxy has settings.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable

from horde_proxy.key_digest import key_digest
from horde_proxy.web.csrf import is_same_token

CLAIM_SECONDS = 2 * 3600
"""Seconds that somebody may take for the guide."""
MOST_WRONG = 50
"""Wrong codes of all addresses together; then there is a new code. There are 31 ** 8 codes, so that
50 guesses find the right one with a chance of 1 in 17,000,000,000."""
_LETTERS = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"
"""Without 0 and O, 1, I and L, which look alike in some fonts."""
_LENGTH = 8

log = logging.getLogger(__name__)


class FirstRunClaim:
    """The code and the cookies of one process. Thread-safe."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        choose: Callable[[str], str] = secrets.choice,
    ) -> None:
        self._clock, self._choose = clock, choose
        # Guards the fields below. No I/O happens under it.
        self._lock = threading.Lock()
        self._code: str | None = None
        self._wrong = 0
        self._claims: dict[str, float] = {}

    def announce(self) -> None:
        """Make a code and write it to the log, unless there is one."""
        with self._lock:
            if self._code is not None:
                return
            self._code, self._wrong = self._new_code(), 0
            code = self._code
        # The only secret that is logged: whoever reads it owns the machine.
        log.warning("first start: open /page/first-run and enter the code %s", code)

    def claim(self, code: str) -> str | None:
        """A new cookie for the right code, which is used up; None for a wrong one."""
        with self._lock:
            if self._code is None or not is_same_token(self._code, _tidy(code)):
                return None
            self._code = None
            cookie = secrets.token_urlsafe(32)
            self._claims[key_digest(cookie)] = self._clock() + CLAIM_SECONDS
            return cookie

    def count_wrong(self) -> None:
        """Count a wrong code; after many of them there is another one.

        Not called for addresses that have to wait: one alone cannot change the code all the time.
        """
        with self._lock:
            self._wrong += 1
            if self._wrong >= MOST_WRONG:
                self._code = None
        self.announce()

    def holds(self, cookie: str) -> bool:
        """Whether a cookie was given for a code, less than two hours ago."""
        with self._lock:
            until = self._claims.get(key_digest(cookie)) if cookie else None
        return until is not None and self._clock() < until

    def end(self) -> None:
        """End all claims: the guide is done."""
        with self._lock:
            self._claims = {}

    def _new_code(self) -> str:
        letters = "".join(self._choose(_LETTERS) for _ in range(_LENGTH))
        return f"{letters[: _LENGTH // 2]}-{letters[_LENGTH // 2 :]}"


def _tidy(code: str) -> str:
    """A code as it was printed, however it was typed: "abcd 2345" is "ABCD-2345"."""
    letters = "".join(char for char in code.upper() if char in _LETTERS)
    return f"{letters[: _LENGTH // 2]}-{letters[_LENGTH // 2 :]}"
