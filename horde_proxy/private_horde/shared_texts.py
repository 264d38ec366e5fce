"""Texts that grow in one process, and are read in another one at once.

    reader's process:  watch()    --"watch", twice a second: what it knows--> all processes
    worker's process:  extended() --"text": job, position, piece--> the reader's GrowingTexts

A piece is sent only while somebody reads its request elsewhere. It may get lost, or be too long for
a signal: then the reader has a gap until its next "watch", and what it lacks for longer comes from
the store, where texts are saved once a second. So nothing depends on signals but the time.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping

from horde_proxy.private_horde.growing_texts import GrowingTexts
from horde_proxy.private_horde.signals import Signals, request_id_of

_WATCH, _TEXT = "watch ", "text "
_WATCHED_SECONDS = 3.0
"""How long a "watch" is valid. A reader sends one twice a second."""
_LONGEST_TOPIC = 7000
"""Bytes of a piece in JSON: PostgreSQL's signals have 8,000."""
_MOST_WATCHED = 10_000
"""Requests that others read, of which those that nobody reads any more are forgotten then."""

log = logging.getLogger(__name__)


class SharedTexts:
    """Sends pieces to other processes, and takes theirs. Thread-safe. `clock` counts seconds."""

    def __init__(self, texts: GrowingTexts, signals: Signals, clock: Callable[[], float]) -> None:
        self._texts, self._signals, self._clock = texts, signals, clock
        # Guards the field below. No I/O happens under it.
        self._lock = threading.Lock()
        # Until when others read a request.
        self._watched: dict[str, float] = {}
        signals.receive(self._receive)

    def watch(self, request_id: str, saved: Mapping[int, str]) -> None:
        """Ask for the pieces of a request, after what was saved of it, by slot."""
        for slot, text in saved.items():
            self._texts.extend(request_id, slot, 0, text)
        known = {slot: len(text) for slot, text in self._texts.texts(request_id).items()}
        self._signals.announce(_WATCH + json.dumps([request_id, known]))

    def expect(self) -> None:
        """Listen to what others read, because a worker of this process has a job."""
        self._signals.stay()

    def extended(self, request_id: str, slot: int, position: int, piece: str) -> None:
        """Send what a worker wrote at a position, if anybody else reads it."""
        self.expect()
        with self._lock:
            is_watched = self._watched.get(request_id, 0.0) > self._clock()
        if is_watched and piece:
            self._send(request_id, slot, position, piece)

    def _send(self, request_id: str, slot: int, position: int, piece: str) -> None:
        job_id = self._texts.writer(request_id, slot)
        topic = _TEXT + json.dumps([request_id, slot, job_id, position, piece])
        # As it is in the JSON of a signal, where quotes are escaped once more.
        if job_id is not None and len(json.dumps(topic)) <= _LONGEST_TOPIC:
            self._signals.announce(topic)

    def _receive(self, topic: str) -> None:
        try:
            self._read(topic)
        # Another version of this program, while one process after the other is replaced, may send
        # other fields. An error would end the thread that hears the others.
        except (ValueError, TypeError, AttributeError) as exc:
            log.debug("a signal of another process cannot be read: %s", exc)

    def _read(self, topic: str) -> None:
        if topic.startswith(_TEXT):
            self._take(*json.loads(topic.removeprefix(_TEXT)))
        elif topic.startswith(_WATCH):
            self._note_watch(*json.loads(topic.removeprefix(_WATCH)))
        elif (request_id := request_id_of(topic)) is not None:
            self._texts.touch(request_id)

    def _note_watch(self, request_id: str, known: Mapping[str, int]) -> None:
        now = self._clock()
        with self._lock:
            self._watched[request_id] = now + _WATCHED_SECONDS
            if len(self._watched) > _MOST_WATCHED:
                self._watched = {r: until for r, until in self._watched.items() if until > now}
        for slot, text in self._texts.texts(request_id).items():
            position = known.get(str(slot), 0)
            if len(text) > position:
                self._send(request_id, slot, position, text[position:])

    def _take(self, request_id: str, slot: int, job_id: str, position: int, piece: str) -> None:
        if not self._texts.is_watched(request_id):
            return
        if self._texts.writer(request_id, slot) != job_id:
            # What a lost worker wrote beyond that was never saved.
            begun = self._texts.text(request_id, slot)[:position]
            self._texts.take_over(request_id, slot, job_id, begun)
        self._texts.extend(request_id, slot, position, piece)
