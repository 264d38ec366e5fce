"""The log of a stream's events: all of its readers see the same bytes, whenever they read."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.api.event_log import EventLog, LogReader, NumberedEvents
from horde_proxy.errors import ProxyError, UpstreamFailed
from horde_proxy.protocol.chunks import Chunk

CHUNK: Chunk = {}


class Counting:
    """A writer whose events are numbers, two for each chunk."""

    shows_progress = False

    def __init__(self) -> None:
        self.next, self.is_complete, self.is_open = 0, False, True

    def event(self) -> bytes:
        self.next += 1
        return b"data: %d\n\n" % (self.next - 1)

    def begin(self) -> Iterator[bytes]:
        yield self.event()

    def chunk(self, chunk: Chunk) -> Iterator[bytes]:
        yield self.event()
        yield self.event()

    def comment(self, text: str) -> bytes:
        return f": {text}\n\n".encode()

    def keep_alive(self) -> bytes:
        return self.event()

    def progress(self, text: str) -> bytes:
        return self.event() + self.event()

    def error(self, error: ProxyError) -> bytes:
        return self.event()

    def end(self) -> bytes:
        self.is_complete = True
        return self.event()


def numbers(events: bytes) -> list[int]:
    return [int(event.removeprefix(b"data: ")) for event in events.split(b"\n\n") if event]


@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "chunk", "keep_alive", "progress"]), st.integers(0, 2)),
        max_size=40,
    ),
    st.booleans(),
)
def test_every_reader_sees_each_event_once_and_in_order(
    steps: list[tuple[str, int]], fails: bool
) -> None:
    log = EventLog(Counting())
    readers = [LogReader(log) for _ in range(3)]
    seen = [b"".join(reader.begin()) for reader in readers]
    for step, number in steps:
        if step == "take":
            log.take(CHUNK)
        elif step == "chunk":
            seen[number] += b"".join(readers[number].chunk(CHUNK))
        elif step == "keep_alive":
            seen[number] += readers[number].keep_alive()
        else:
            seen[number] += readers[number].progress("queued")
    log.take(CHUNK, holds=True)
    if fails:
        log.fail(UpstreamFailed("It broke off."))
    else:
        log.end()
    log.publish()
    for number, reader in enumerate(readers):
        seen[number] += b"".join(reader.chunk(CHUNK)) + reader.end()
    assert seen[0] == seen[1] == seen[2] == b"".join(log.all_events())
    assert numbers(seen[0]) == list(range(len(numbers(seen[0]))))
    assert readers[0].is_complete is (not fails)


def test_what_is_held_back_is_seen_when_it_is_published() -> None:
    log = EventLog(Counting())
    reader = LogReader(log)
    assert numbers(b"".join(reader.begin())) == [0]
    log.take(CHUNK, holds=True)
    assert list(reader.chunk(CHUNK)) == []
    # It would come before the events that are held back, and has a number after them.
    assert reader.keep_alive() == b""
    log.end()
    assert log.after(1) == []
    log.publish()
    assert numbers(reader.end()) == [1, 2, 3]
    assert (log.is_over, reader.is_open, reader.is_complete) == (True, False, True)


def test_a_reader_begins_after_any_event_and_may_want_numbers() -> None:
    log = EventLog(Counting())
    log.take(CHUNK)
    log.take(CHUNK)
    assert numbers(b"".join(LogReader(log, 3).begin())) == [3, 4]
    [event] = LogReader(log, 4, numbers=True).begin()
    assert event == b"id: 4\ndata: 4\n\n"
    assert list(LogReader(log, 99).begin()) == []


def test_a_log_whose_events_nobody_reads_keeps_none() -> None:
    log = EventLog(Counting(), keeps=False)
    log.take(CHUNK)
    log.end()
    assert (log.all_events(), log.is_complete) == ([], True)


def test_numbers_leave_out_what_the_client_has() -> None:
    writer = NumberedEvents(Counting(), after=1)
    assert list(writer.begin()) == []
    assert list(writer.chunk(CHUNK)) == [b"id: 2\ndata: 2\n\n"]
    # Other readers have other keep-alives, so that these have no numbers.
    assert writer.keep_alive() == b"data: 3\n\n"
    assert list(writer.chunk(CHUNK)) == [b"id: 3\ndata: 4\n\n", b"id: 4\ndata: 5\n\n"]
