"""A model that repeats what the user said last: deterministic, for tests of clients."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from horde_proxy.prompts.answer import cut
from horde_proxy.prompts.tokens import truncate
from horde_proxy.worker.backend import Payload

_INPUT = re.compile(
    r"\{\{\[INPUT\]\}\}((?:(?!\{\{\[INPUT\]\}\}).)*?)"
    r"(?:\{\{\[INPUT_END\]\}\}|\{\{\[OUTPUT\]\}\}|\Z)",
    re.DOTALL,
)
_BEGUN = re.compile(r"\{\{\[OUTPUT\]\}\}((?:(?!\{\{\[).)*)\Z", re.DOTALL)
_SLICE = 0.05


class Echo:
    """The last user turn, or the whole prompt where there are no turns; `delay` in seconds.

    Where an answer has been begun that agrees with the echo, the rest of it follows.
    """

    name = "horde-proxy/echo"
    max_length = 4096
    max_context_length = 65536
    tags = None

    def __init__(
        self,
        delay: float = 0.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._delay, self._clock, self._sleep = delay, clock, sleep

    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        """Up to max_length tokens (estimated); it ends before the first stop string."""
        until = self._clock() + self._delay
        while (left := until - self._clock()) > 0 and not cancelled():
            self._sleep(min(left, _SLICE))
        prompt = str(payload.get("prompt") or "")
        turns = _INPUT.findall(prompt)
        text = turns[-1] if turns else prompt
        begun = _BEGUN.search(prompt)
        if begun and text.startswith(begun.group(1)):
            text = text[len(begun.group(1)):]
        text, _ = cut(text, payload.get("stop_sequence") or ())
        return truncate(text, int(payload.get("max_length") or 80))
