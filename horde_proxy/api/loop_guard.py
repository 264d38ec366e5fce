"""Clients in a loop: agents that send the same request at once, again and again, without end."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.chat import GenerationRequest, Message
from horde_proxy.upstreams.base import StreamItem
from horde_proxy.windows import CallWindows

_WINDOW = 60
"""Within which answers to the same request are counted (s)."""


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
        self._limit = limit
        self._answered = CallWindows("answered", _WINDOW, clock=clock)
        # Guards the counts of running requests.
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()

    def check(self, chat: GenerationRequest, client: str) -> None:
        """Raises Repeated when the same was answered too often within the minute."""
        if not self._limit:
            return
        key = _said(chat, client)
        if self._answered.wait(key, self._limit) and key not in self._running:
            raise RequestLoop()

    def counted(
        self, chat: GenerationRequest, client: str, items: Iterator[StreamItem]
    ) -> Iterator[StreamItem]:
        """The items of an answer, which is counted when it ends."""
        if not self._limit:
            yield from items
            return
        key = _said(chat, client)
        with self._lock:
            self._running[key] += 1
        try:
            yield from items
        finally:
            if self._end(key):
                self._answered.hit(key, self._limit)

    def _end(self, key: str) -> bool:
        """Whether it was the last of the same requests that ran at once; they count as one."""
        with self._lock:
            self._running[key] -= 1
            if self._running[key]:
                return False
            del self._running[key]
            return True


def _said(chat: GenerationRequest, client: str) -> str:
    """A digest of who asks and of all that is said, but for the model's own empty last turns."""
    messages = list(chat.messages)
    while messages and _is_empty(messages[-1]):
        messages.pop()
    said = repr((client, chat.model, chat.tool_choice, messages))
    return hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()


def _is_empty(message: Message) -> bool:
    return message.role == "assistant" and not message.text.strip() and not message.tool_calls
