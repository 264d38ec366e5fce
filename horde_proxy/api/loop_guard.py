"""Clients in a loop: agents that send the same request at once, again and again, without end."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator

from cachetools import TTLCache

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.chat import ChatRequest, Message
from horde_proxy.upstreams.base import StreamItem

_WINDOW = 60.0
_MOST_KNOWN = 10_000


class RequestLoop(InvalidRequest):
    """The client should stop: clients do not retry this."""

    code = "repeated_request"

    def __init__(self) -> None:
        super().__init__(
            "This request was sent over and over, each time after it had been answered. The client "
            "seems to be in a loop; change the messages, or set server.loop_limit.",
            param="messages",
        )


class LoopGuard:
    """Counts, by client, requests that say the same and follow each other; `limit` a minute.

    What an agent adds without content (empty turns of its own) does not make a request another
    one. Requests at the same time are no loop. A limit of 0 counts nothing.
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit, self._clock = limit, clock
        self._lock = threading.Lock()
        self._answered: TTLCache[str, deque[float]] = TTLCache(_MOST_KNOWN, _WINDOW, clock)
        self._running: Counter[str] = Counter()

    def check(self, chat: ChatRequest) -> None:
        """Raises Repeated when the same was answered too often within the minute."""
        if not self._limit:
            return
        key = _said(chat)
        with self._lock:
            recent = self._answered.get(key, ())
            count = sum(at > self._clock() - _WINDOW for at in recent)
            if count >= self._limit and not self._running[key]:
                raise RequestLoop()

    def counted(self, chat: ChatRequest, items: Iterator[StreamItem]) -> Iterator[StreamItem]:
        """The items of an answer, which is counted when it ends."""
        if not self._limit:
            yield from items
            return
        key = _said(chat)
        with self._lock:
            self._running[key] += 1
        try:
            yield from items
        finally:
            with self._lock:
                self._end(key)

    def _end(self, key: str) -> None:
        self._running[key] -= 1
        if self._running[key]:
            return
        del self._running[key]
        answered = self._answered.get(key) or deque(maxlen=self._limit)
        answered.append(self._clock())
        self._answered[key] = answered


def _said(chat: ChatRequest) -> str:
    """A digest of who asks and of all that is said, but for the model's own empty last turns."""
    messages = list(chat.messages)
    while messages and _is_empty(messages[-1]):
        messages.pop()
    said = repr((chat.client, chat.model, chat.tool_choice, messages))
    return hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()


def _is_empty(message: Message) -> bool:
    return message.role == "assistant" and not message.text.strip() and not message.tool_calls
