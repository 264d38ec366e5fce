"""What a process ends with: the process that started it, or the terminal that it was started in.

It only says when; how a process ends is not known here.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
"""The option's number in Linux' prctl.h."""
_TERMINAL: Final = "/dev/tty"
"""A process's own terminal. Once that has been closed, nobody can open it (ENXIO, EIO)."""


def tie_to_parent() -> Callable[[], None] | None:
    """What a new process is to call so that SIGTERM ends it when this one dies; None if unknown.

    SIGKILL leaves its victim no time to end others. Only Linux has this. It is for a `preexec_fn`:
    nothing is loaded or allocated after the fork.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    parent = os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        # It may have died before.
        if os.getppid() != parent:
            os._exit(1)

    return tie


def hangup_is_ignored() -> bool:
    """Whether this process was started by nohup, to outlive its terminal."""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


class OwnTerminal:
    """The terminal that this process was started in, if it is to end with it.

    SIGHUP has two meanings: a terminal was closed, or, from `kill -HUP`, read the settings again.
    """

    def __init__(self) -> None:
        self._is_tied = not hangup_is_ignored() and _can_open_terminal()

    def is_lost(self) -> bool:
        """Whether it was there at the start, and has been closed since then."""
        return self._is_tied and not _can_open_terminal()


def _can_open_terminal() -> bool:
    try:
        os.close(os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
