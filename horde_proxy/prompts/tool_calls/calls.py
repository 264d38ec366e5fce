"""What is read from a text: the calls, and what went wrong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FoundCall:
    """A call in OpenAI's form: `arguments` is compact JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True)
class CallReading:
    """What a text holds: content before the first call, the calls, and what went wrong.

    `unfinished`: the text ends inside a call; `content` is then the whole text. `problem`: a
    sentence for the model to read, when a call is unreadable or does not fit the tools.
    """

    content: str
    calls: tuple[FoundCall, ...]
    unfinished: bool
    problem: str | None
