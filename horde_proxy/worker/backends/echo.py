"""A model that repeats the user's last words: deterministic, for tests of clients."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from horde_proxy.prompts.end_tokens import cut
from horde_proxy.prompts.tokens import estimate, truncate
from horde_proxy.worker.backends.base import BackendError, BackendOptions, Payload
from horde_proxy.worker.backends.pieces import words

# A user's turn, "{{[INPUT]}}Hello{{[INPUT_END]}}" or "{{[INPUT]}}Hello{{[OUTPUT]}}": clients write
# placeholders with and without their ends.
_INPUT = re.compile(
    r"\{\{\[INPUT\]\}\}((?:(?!\{\{\[INPUT\]\}\}).)*?)"
    r"(?:\{\{\[INPUT_END\]\}\}|\{\{\[OUTPUT\]\}\}|\Z)",
    re.DOTALL,
)

# The start of an answer, written by the client: "{{[OUTPUT]}}The" at the end of the prompt.
_BEGUN = re.compile(r"\{\{\[OUTPUT\]\}\}((?:(?!\{\{\[).)*)\Z", re.DOTALL)

_SLICE = 0.05
"""Seconds between two checks whether the worker is being stopped."""


@dataclass(frozen=True)
class EchoRule:
    """`say` is the answer if `when` matches anywhere in the last user turn."""

    when: re.Pattern[str]
    say: str


def read_scenario(path: Path) -> list[EchoRule]:
    """The rules of a JSON file: [{"when": regex, "say": text}, ...]. Raises BackendError."""
    try:
        rules = json.loads(path.read_text(encoding="utf-8"))
        return [EchoRule(re.compile(rule["when"], re.DOTALL), str(rule["say"])) for rule in rules]
    except (OSError, ValueError, TypeError, KeyError, re.error) as exc:
        raise BackendError(f"the scenario {path} cannot be read: {exc!r}") from exc


def open_echo(name: str, options: BackendOptions) -> Echo | None:
    """The echo for "echo", else None. Raises BackendError for a scenario that is not readable."""
    if name != "echo":
        return None
    return Echo(
        options.delay,
        speed=options.speed,
        scenario=read_scenario(options.scenario) if options.scenario else (),
        max_length=options.max_length,
        max_context_length=options.max_context_length,
    )


class Echo:
    """Answers with the last user turn, or with the whole prompt if it has no turns.

    The first matching rule of a `scenario` gives the answer instead. `delay` is in seconds, `speed`
    in tokens/s, 0 for no limit. If the prompt ends with the start of this answer, the rest follows.
    """

    name = "horde-proxy/echo"
    tags = None

    def __init__(
        self,
        delay: float = 0.0,
        *,
        speed: float = 0.0,
        scenario: Sequence[EchoRule] = (),
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
        """At most max_length tokens (estimated), cut before the first stop string."""
        text = self._answer(payload)
        self._take_time(self._seconds(estimate(text)), cancelled)
        return text

    def stream(self, payload: Payload, cancelled: Callable[[], bool]) -> Iterator[str]:
        """As `generate`, a word at a time where the speed is limited."""
        text = self._answer(payload)
        self._take_time(self._delay, cancelled)
        for word in words(text) if self._speed else [text]:
            if cancelled():
                return
            self._take_time(self._seconds(estimate(word)) - self._delay, cancelled)
            yield word

    def _answer(self, payload: Payload) -> str:
        prompt = str(payload.get("prompt") or "")
        turns = _INPUT.findall(prompt)
        text = turns[-1] if turns else prompt
        text = next((rule.say for rule in self._scenario if rule.when.search(text)), text)
        begun = _BEGUN.search(prompt)
        if begun and text.startswith(begun.group(1)):
            text = text[len(begun.group(1)) :]
        text, _ = cut(text, payload.get("stop_sequence") or ())
        return truncate(text, int(payload.get("max_length") or 80))

    def _seconds(self, tokens: int) -> float:
        return self._delay + (tokens / self._speed if self._speed else 0.0)

    def _take_time(self, seconds: float, cancelled: Callable[[], bool]) -> None:
        until = self._clock() + seconds
        while (left := until - self._clock()) > 0 and not cancelled():
            self._sleep(min(left, _SLICE))
