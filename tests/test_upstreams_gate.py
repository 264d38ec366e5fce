"""The gate keeps the horde's limits, the order of arrival, and clients apart."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from limits.errors import StorageError

from horde_proxy.upstreams.base import Waiting
from horde_proxy.upstreams.horde.submit_queue import Limits, SubmitQueue, Ticket
from tests.support import Clock, ClockStorage

FREE = Limits(address=(), key=())


class Line:
    """Chats at one gate, each moved on by hand, and what they submitted when."""

    def __init__(self, limits: Limits | None = None, concurrency: int = 30) -> None:
        self.clock = Clock()
        self.gate = SubmitQueue(
            limits or Limits(),
            sleep=lambda seconds: None,
            concurrency=lambda key: concurrency,
            storage=lambda: ClockStorage(self.clock),
            now=self.clock,
        )
        self.sent: list[tuple[float, str]] = []
        self.chats: dict[str, tuple[Ticket, Generator[Waiting, None, None]]] = {}

    def arrive(self, name: str, client: str = "one", key: str = "key", n: int = 1) -> None:
        self.line_up(name, self.gate.place(key, client), key, n)

    def line_up(self, name: str, place: Ticket, key: str = "key", n: int = 1) -> None:
        """Put a chat in line, without its going at once."""
        waiting = self.gate.pass_through(place, key, n)
        self.gate._held_until.setdefault(place.key, self.clock() + 0.05)
        next(waiting)
        self.chats[name] = place, waiting

    def step(self) -> None:
        """Each chat in line looks once; time stands still."""
        for name, (place, waiting) in list(self.chats.items()):
            if next(waiting, None) is None:
                with self.gate.sending(place):
                    self.sent.append((self.clock(), name))
                del self.chats[name]

    def run(self, seconds: float) -> list[tuple[float, str]]:
        """What is sent while that much time passes, in steps of a tenth."""
        for _ in range(round(seconds * 10)):
            self.step()
            self.clock.seconds = round(self.clock.seconds + 0.1, 3)
        return [(round(at - 1000.0, 1), name) for at, name in self.sent]


def test_two_a_second_in_the_order_of_arrival() -> None:
    line = Line()
    for number in range(6):
        line.arrive(str(number))
    sent = line.run(4)
    assert [name for _, name in sent] == ["0", "1", "2", "3", "4", "5"]
    assert [at for at, _ in sent] == [0.1, 0.1, 1.1, 1.1, 2.1, 2.1]


def test_ninety_a_minute() -> None:
    line = Line()
    for number in range(100):
        line.arrive(str(number))
    sent = line.run(70)
    assert len([at for at, _ in sent if at < 60]) == 90
    assert len(sent) == 100


def test_clients_take_turns() -> None:
    line = Line()
    for number in range(4):
        line.arrive(f"many-{number}", "many")
    line.arrive("few", "few")
    assert [name for _, name in line.run(5)] == ["many-0", "few", "many-1", "many-2", "many-3"]


def test_a_chat_keeps_its_place_for_its_next_segment() -> None:
    line = Line()
    first = line.gate.place("key", "one")
    for number in range(4):
        line.arrive(str(number))
    line.run(0.2)
    line.line_up("again", first)
    assert [name for _, name in line.run(3)] == ["0", "1", "again", "2", "3"]


def test_no_more_jobs_wait_than_the_account_may_have() -> None:
    line = Line(FREE, concurrency=3)
    place = line.gate.place("key", "one")
    line.gate.count_waiting(place, 2)
    line.arrive("second", n=2)
    assert line.run(2) == []
    line.gate.count_waiting(place, -1)
    assert [name for _, name in line.run(1)] == ["second"]


def test_a_key_that_must_wait_does_not_stop_another() -> None:
    line = Line(FREE, concurrency=1)
    busy = line.gate.place("busy key", "busy")
    line.gate.count_waiting(busy, 1)
    line.arrive("held", "busy", "busy key")
    line.arrive("free", "free", "free key")
    assert [name for _, name in line.run(1)] == ["free"]


def test_a_key_that_the_horde_turned_away_is_held_for_a_while() -> None:
    line = Line(FREE)
    line.gate.hold(line.gate.place("key", "one"), 5)
    line.arrive("held")
    assert line.run(4.9) == []
    assert [name for _, name in line.run(1)] == ["held"]


def test_who_leaves_the_line_lets_the_others_go_on() -> None:
    line = Line()
    for number in range(5):
        line.arrive(str(number))
    line.run(0.1)
    line.chats.pop("2")[1].close()
    assert [name for _, name in line.run(3)] == ["0", "1", "3", "4"]


def test_the_position_counts_turns() -> None:
    line = Line(Limits(address=("1/hour",), key=()))
    for name, client in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "one")):
        line.arrive(name, client)
    line.run(0.2)
    found: dict[str, Any] = {
        name: next(waiting).queue_position for name, (_, waiting) in line.chats.items()
    }
    assert found == {"b": 2, "c": 2, "d": 3}


def test_limits_of_the_notation_that_makes_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="couldn't parse"):
        SubmitQueue(Limits(address=("two a second",)), sleep=print, concurrency=lambda key: 1)


def test_a_shared_storage_that_fails_is_done_without() -> None:
    class Failing(ClockStorage):
        def acquire_entry(self, *arguments: Any, **more: Any) -> bool:
            raise StorageError(ValueError("gone"))

    clock = Clock()
    gate = SubmitQueue(
        Limits(),
        sleep=clock.sleep,
        concurrency=lambda key: 30,
        now=clock,
        storage=lambda: ClockStorage(clock),
        shared=lambda: Failing(clock),
    )
    place = gate.place("key", "one")
    assert list(gate.pass_through(place, "key", 1)) == []
    with gate.sending(place):
        accepted = "id"
    assert accepted == "id"
    assert not gate._sending


def test_a_short_hold_does_not_shorten_a_long_one() -> None:
    line = Line(FREE)
    place = line.gate.place("key", "one")
    line.gate.hold(place, 60)
    line.gate.hold(place, 1)
    line.arrive("held")
    assert line.run(30) == []
