"""A model that repeats what the user said last: deterministic, for tests of clients."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from horde_proxy.prompts.answer import cut
from horde_proxy.prompts.tokens import estimate, truncate
from horde_proxy.worker.backend import BackendError, Payload

_INPUT = re.compile(
    r"\{\{\[INPUT\]\}\}((?:(?!\{\{\[INPUT\]\}\}).)*?)"
    r"(?:\{\{\[INPUT_END\]\}\}|\{\{\[OUTPUT\]\}\}|\Z)",
    re.DOTALL,
)
_BEGUN = re.compile(r"\{\{\[OUTPUT\]\}\}((?:(?!\{\{\[).)*)\Z", re.DOTALL)
_SLICE = 0.05


@dataclass(frozen=True)
class Rule:
    """What is said where `when` is found in the last user turn."""

    when: re.Pattern[str]
    say: str


def read_scenario(path: Path) -> list[Rule]:
    """The rules of a JSON file: [{"when": regex, "say": text}, ...]. Raises BackendError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [Rule(re.compile(each["when"], re.DOTALL), str(each["say"])) for each in found]
    except (OSError, ValueError, TypeError, KeyError, re.error) as exc:
        raise BackendError(f"the scenario {path} cannot be read: {exc!r}") from exc


class Echo:
    """The last user turn, or the whole prompt where there are no turns.

    Of a `scenario`, the first rule that finds something in that turn says the answer instead.
    `delay` is in seconds, `speed` in tokens/s, 0 for at once. Where an answer has been begun that
    agrees with the echo, the rest of it follows.
    """

    name = "horde-proxy/echo"
    tags = None

    def __init__(
        self,
        delay: float = 0.0,
        *,
        speed: float = 0.0,
        scenario: Sequence[Rule] = (),
        max_length: int | None = None,
        max_context_length: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.max_length = max_length or 4096
        self.max_context_length = max_context_length or 65536
        self._delay, self._speed = delay, speed
        self._scenario = scenario
        self._clock, self._sleep = clock, sleep

    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        """Up to max_length tokens (estimated); it ends before the first stop string."""
        prompt = str(payload.get("prompt") or "")
        turns = _INPUT.findall(prompt)
        text = turns[-1] if turns else prompt
        text = next((rule.say for rule in self._scenario if rule.when.search(text)), text)
        begun = _BEGUN.search(prompt)
        if begun and text.startswith(begun.group(1)):
            text = text[len(begun.group(1)) :]
        text, _ = cut(text, payload.get("stop_sequence") or ())
        text = truncate(text, int(payload.get("max_length") or 80))
        self._take_time(estimate(text), cancelled)
        return text

    def _take_time(self, tokens: int, cancelled: Callable[[], bool]) -> None:
        until = self._clock() + self._delay + (tokens / self._speed if self._speed else 0.0)
        while (left := until - self._clock()) > 0 and not cancelled():
            self._sleep(min(left, _SLICE))
