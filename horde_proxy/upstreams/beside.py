"""A call that may take long, ended by a helper thread: the thread that needs it gets Waitings.

    request thread    Beside.send() -> sends, looks for an answer -> the response
                                       none yet: a helper goes on ... Waitings ... the response
    helper thread     make(): waits for the first event; then the next call, or its end

A request thread that blocked on a server's socket could write no keep-alive. Most idle servers
answer before one is due, and then no thread has to wake another, which takes 0.2 ms. When send() is
closed before its end, the call is ended at the server, and whichever of the two threads comes last
closes the response. What is called, and what an answer means, is not known here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from queue import Empty, SimpleQueue

from horde_proxy.errors import ServerBug, Unavailable
from horde_proxy.upstreams.base import LONGEST_SLEEP, Waiting
from horde_proxy.upstreams.disconnects import CallGuard, NotYet
from horde_proxy.upstreams.proxying import ProxyResponse

_IDLE_SECONDS = 20.0
"""Seconds that a helper waits for its next call: chats of one person follow each other so fast."""
_THREAD_PAUSE = 5
"""Retry-After (s) when the machine allows no more threads: answers end all the time."""
log = logging.getLogger(__name__)


def start_thread(run: Callable[[], object]) -> None:
    """Start a thread for a stream. Raises Unavailable where the machine allows no more of them."""
    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError as exc:
        raise Unavailable(
            "This proxy cannot start a thread for the stream: its machine allows no more.",
            retry_after=_THREAD_PAUSE,
        ) from exc


class HelperThreads:
    """Threads that make calls, one at a time each. They are kept, since starting one costs 0.1 ms.

    There are as many as calls were under way at once in the last seconds.
    """

    def __init__(self, idle_seconds: float = _IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        # Guards the inboxes of the helpers that wait for a call. No I/O happens under it.
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Callable[[], object]]] = []

    def run(self, call: Callable[[], object]) -> None:
        """Have a helper make a call, which must not raise. Raises Unavailable without a thread."""
        with self._lock:
            # The last one that became idle: the others may end.
            inbox = self._idle.pop() if self._idle else None
        if inbox is not None:
            inbox.put(call)
        else:
            start_thread(lambda: self._work(call))

    def _work(self, first: Callable[[], object]) -> None:
        inbox: SimpleQueue[Callable[[], object]] = SimpleQueue()
        call: Callable[[], object] | None = first
        while call is not None:
            call()
            # A call holds its response, which nobody needs while the helper is idle.
            call = None
            with self._lock:
                self._idle.append(inbox)
            call = self._next(inbox)

    def _next(self, inbox: SimpleQueue[Callable[[], object]]) -> Callable[[], object] | None:
        """The next call; None when none came for a while."""
        try:
            return inbox.get(timeout=self._idle_seconds)
        except Empty:
            with self._lock:
                if inbox in self._idle:
                    self._idle.remove(inbox)
                    return None
        # Another thread has just taken the inbox, and is about to fill it.
        return inbox.get()


class Beside:
    """Makes the calls of one client beside its request thread.

    `watch` makes the guard of each call, which ends it when the client leaves. `pause` is the time
    between two Waitings (s).
    """

    def __init__(
        self, helpers: HelperThreads, watch: Callable[[], CallGuard], pause: float = LONGEST_SLEEP
    ) -> None:
        self._helpers, self._watch, self.pause = helpers, watch, pause

    def send(
        self, send: Callable[[CallGuard], ProxyResponse]
    ) -> Generator[Waiting, None, ProxyResponse]:
        """Waitings, then what `send` returns. Raises what it raises."""
        guard = self._watch()
        guard.patience = self.pause
        try:
            return send(guard)
        except NotYet:
            guard.patience = None
        # The request was sent, and a whole pause has passed: a Waiting is due.
        is_late = guard.ahead is not None
        handover = _Handover(send, guard)
        try:
            self._start(handover)
            while is_late or not handover.is_made(self.pause):
                yield Waiting("generating")
                is_late = False
        except BaseException:
            handover.leave()
            raise
        return handover.result()

    def _start(self, handover: _Handover) -> None:
        try:
            self._helpers.run(handover.make)
        except Unavailable:
            # The machine allows no more threads. A silent stream is better than none.
            handover.make()


class _Handover:
    """One response on its way from a helper to the request's thread.

    AWAITED -> MADE     make() has ended, and released the semaphore
    AWAITED -> LEFT     leave(): the request's thread needs the response no longer
    """

    def __init__(self, send: Callable[[CallGuard], ProxyResponse], guard: CallGuard) -> None:
        self._send, self._guard = send, guard
        self._response: ProxyResponse | None = None
        self._error: BaseException | None = None
        self._is_left = False
        # A binary semaphore: released once the result is there. Whoever acquires it has the
        # result, so that exactly one of the two threads closes a response that nobody needs.
        self._made = threading.Lock()
        self._made.acquire()

    def make(self) -> None:
        """Make the call. The helper calls this."""
        try:
            self._response = self._send(self._guard)
        # The request's thread has to meet the error, whatever it is, or it would wait for ever.
        except BaseException as exc:  # noqa: BLE001
            self._error = exc
        self._made.release()
        if self._is_left:
            self._discard()

    def is_made(self, seconds: float) -> bool:
        """Whether the result is there, or comes within so many seconds."""
        return self._made.acquire(timeout=seconds)

    def result(self) -> ProxyResponse:
        """The response, once it is made. Raises the error of the call."""
        if self._error is not None:
            raise self._error
        if self._response is None:
            raise ServerBug()
        return self._response

    def leave(self) -> None:
        """End the call at the server, and close what came of it."""
        self._is_left = True
        self._guard.end_call()
        self._guard.close()
        self._discard()

    def _discard(self) -> None:
        if self._made.acquire(blocking=False) and self._response is not None:
            self._response.close()
