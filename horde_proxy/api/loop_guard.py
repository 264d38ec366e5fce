"""Stopping clients in a loop: agents that send the same request again and again, without end.

Each turn of such a loop costs kudos and a volunteer's GPU, and nobody looks at the answers.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.protocol.image_request import ImageRequest
from horde_proxy.windows import CallWindows

_WINDOW = 60
"""Answers to the same request are counted within so many seconds: `limit` is per minute."""


class RequestLoop(InvalidRequest):
    """The client repeats itself. A 400, which SDKs do not retry."""

    code = "repeated_request"

    def __init__(self) -> None:
        super().__init__(
            "This request was sent over and over, each time after it had been answered. The client "
            "seems to be in a loop; change the messages, or set server.loop_limit.",
            param="messages",
        )


class LoopGuard:
    """Counts equal requests of a client that follow each other; at most `limit` a minute.

    Empty turns that an agent adds do not make a request different. Equal requests at the same
    time are no loop. A limit of 0 turns the guard off.
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        # Ends are counted and not begins: equal requests at the same time are no loop.
        self._answered = CallWindows("answered", _WINDOW, clock=clock)
        # Guards `_running`, the counts of equal requests that run now.
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()

    def configure(self, limit: int) -> None:
        """Change the limit; what has been counted stays."""
        self._limit = limit

    def check(self, request: GenerationRequest | ImageRequest, client: str) -> None:
        """Raises RequestLoop when an equal request was answered too often within the minute."""
        key = self._key(request, client)
        if key is None:
            return
        if self._answered.wait(key, self._limit) and key not in self._running:
            raise RequestLoop()

    @contextmanager
    def running(self, request: GenerationRequest | ImageRequest, client: str) -> Iterator[None]:
        """A context around the answer to a request, which counts when it ends."""
        key = self._key(request, client)
        if key is None:
            yield
            return
        with self._lock:
            self._running[key] += 1
        try:
            yield
        finally:
            if self._is_last(key):
                self._answered.hit(key, self._limit)

    def _key(self, request: GenerationRequest | ImageRequest, client: str) -> str | None:
        """What equal requests have in common; None for one that is not counted.

        The same words for a picture again make another picture, and people look at them.
        """
        if not self._limit or isinstance(request, ImageRequest):
            return None
        return _digest(request, client)

    def _is_last(self, key: str) -> bool:
        """Whether the last of several equal requests ended that ran at once: they count as one."""
        with self._lock:
            self._running[key] -= 1
            if self._running[key]:
                return False
            del self._running[key]
            return True


def _digest(request: GenerationRequest, client: str) -> str:
    """A digest of the client and the conversation, without the model's own empty last turns."""
    messages = list(request.messages)
    while messages and _is_empty(messages[-1]):
        messages.pop()
    content = repr((client, request.model, request.tool_choice, messages))
    return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()


def _is_empty(message: Message) -> bool:
    return message.role == "assistant" and not message.text.strip() and not message.tool_calls
