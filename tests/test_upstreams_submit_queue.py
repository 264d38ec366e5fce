"""The queue keeps the horde's limits, the order of arrival, and clients apart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from limits.errors import StorageError

from horde_proxy.caching.background import in_background, inline
from horde_proxy.upstreams.base import Waiting
from horde_proxy.upstreams.horde.shared_pace import SharedPace
from horde_proxy.upstreams.horde.submit_queue import Limits, SubmitQueue, Ticket
from horde_proxy.windows import MemoryWindows
from tests.support import Clock

FREE = Limits(address=(), key=())


class Line:
    """Chats in one queue, each moved on by hand, and what they submitted when."""

    def __init__(self, limits: Limits | None = None, concurrency: int = 30) -> None:
        self.clock = Clock()
        self.queue = SubmitQueue(
            limits or Limits(),
            sleep=lambda seconds: None,
            concurrency=lambda key: concurrency,
            now=self.clock,
        )
        self.sent: list[tuple[float, str]] = []
        self.chats: dict[str, tuple[Ticket, Generator[Waiting, None, None]]] = {}

    def arrive(
        self,
        name: str,
        client: str = "one",
        key: str = "key",
        n: int = 1,
        *,
        is_background: bool = False,
    ) -> None:
        ticket = self.queue.new_ticket(key, client, is_background=is_background)
        self.line_up(name, ticket, key, n)

    def line_up(self, name: str, ticket: Ticket, key: str = "key", n: int = 1) -> None:
        """Put a chat in line that does not submit at once."""
        waiting = self.queue.wait_turn(ticket, key, n)
        self.queue.hold_key(ticket, 0.05)
        next(waiting)
        self.chats[name] = ticket, waiting

    def step(self) -> None:
        """Each chat in line looks once; time stands still."""
        for name, (ticket, waiting) in list(self.chats.items()):
            if next(waiting, None) is None:
                with self.queue.sending(ticket):
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


def test_ninety_requests_are_submitted_in_a_minute() -> None:
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
    first = line.queue.new_ticket("key", "one")
    for number in range(4):
        line.arrive(str(number))
    line.run(0.2)
    line.line_up("again", first)
    assert [name for _, name in line.run(3)] == ["0", "1", "again", "2", "3"]


def test_no_more_jobs_wait_than_the_account_may_have() -> None:
    line = Line(FREE, concurrency=3)
    ticket = line.queue.new_ticket("key", "one")
    line.queue.count_waiting(ticket, 2)
    line.arrive("second", n=2)
    assert line.run(2) == []
    line.queue.count_waiting(ticket, -1)
    assert [name for _, name in line.run(1)] == ["second"]


def test_a_key_that_must_wait_does_not_stop_another() -> None:
    line = Line(FREE, concurrency=1)
    busy = line.queue.new_ticket("busy key", "busy")
    line.queue.count_waiting(busy, 1)
    line.arrive("held", "busy", "busy key")
    line.arrive("free", "free", "free key")
    assert [name for _, name in line.run(1)] == ["free"]


def test_a_key_that_the_horde_refused_is_held_for_a_while() -> None:
    line = Line(FREE)
    line.queue.hold_key(line.queue.new_ticket("key", "one"), 5)
    line.arrive("held")
    assert line.run(4.9) == []
    assert [name for _, name in line.run(1)] == ["held"]


def test_a_chat_that_leaves_the_line_lets_the_others_go_on() -> None:
    line = Line()
    for number in range(5):
        line.arrive(str(number))
    line.run(0.1)
    line.chats.pop("2")[1].close()
    assert [name for _, name in line.run(3)] == ["0", "1", "3", "4"]


def test_the_queue_position_counts_the_turns_of_other_clients() -> None:
    line = Line(Limits(address=("1/hour",), key=()))
    for name, client in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "one")):
        line.arrive(name, client)
    line.run(0.2)
    positions: dict[str, Any] = {
        name: next(waiting).queue_position for name, (_, waiting) in line.chats.items()
    }
    assert positions == {"b": 2, "c": 1, "d": 3}


def test_a_limit_that_cannot_be_parsed_is_refused() -> None:
    with pytest.raises(ValueError, match="couldn't parse"):
        SubmitQueue(Limits(address=("two a second",)), sleep=print, concurrency=lambda key: 1)


def test_a_short_hold_does_not_shorten_a_long_one() -> None:
    line = Line(FREE)
    ticket = line.queue.new_ticket("key", "one")
    line.queue.hold_key(ticket, 60)
    line.queue.hold_key(ticket, 1)
    line.arrive("held")
    assert line.run(30) == []


class SharedStorage(MemoryWindows):
    """A storage that other processes share: it may fail, or hang until it is let go on."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.is_failing = False
        self.calls = 0
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Event()

    def _call(self) -> None:
        self.calls += 1
        self.entered.set()
        assert self.go_on.wait(60)
        if self.is_failing:
            raise StorageError(ValueError("gone"))

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        self._call()
        return super().acquire_entry(key, limit, expiry, amount)

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        self._call()
        return super().get_moving_window(key, limit, expiry)

    def check(self) -> bool:
        self.calls += 1
        return self.go_on.is_set() and not self.is_failing


class SharedLine(Line):
    """Chats of this process, whose submits are counted in a storage as well."""

    def __init__(
        self, run: Callable[[Callable[[], None]], None] = inline, patience: float = 0.01
    ) -> None:
        super().__init__()
        self.storage = SharedStorage(self.clock)
        self.queue._shared = SharedPace(
            lambda: self.storage, patience=patience, now=self.clock, clock=self.clock, run=run
        )

    def submit_elsewhere(self) -> None:
        """Another process takes what the address may submit in this second."""
        for item in self.queue._address_limits:
            for _ in range(2):
                self.storage.acquire_entry(item.key_for("address"), item.amount, item.get_expiry())


def names(sent: list[tuple[float, str]]) -> list[str]:
    return [name for _, name in sent]


def test_submits_of_other_processes_count() -> None:
    line = SharedLine()
    line.submit_elsewhere()
    line.arrive("one")
    assert line.run(0.9) == []
    assert names(line.run(0.5)) == ["one"]


def test_a_storage_that_fails_leaves_the_local_count_at_once_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    line = SharedLine()
    line.storage.is_failing = True
    for number in range(4):
        line.arrive(str(number))
    sent = line.run(2)
    assert [at for at, _ in sent] == [0.1, 0.1, 1.1, 1.1]
    assert line.storage.calls == 1
    assert [record.message for record in caplog.records] == [
        "Redis fails, so submits are counted in this process only: gone"
    ]


def test_a_storage_that_is_back_counts_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    line = SharedLine()
    line.storage.is_failing = True
    line.arrive("during the outage")
    line.run(0.2)
    line.storage.is_failing = False
    line.run(5)
    line.arrive("finds it back")
    line.run(0.2)
    line.run(1)
    line.submit_elsewhere()
    line.arrive("waits for the others")
    assert names(line.run(0.9)) == ["during the outage", "finds it back"]
    assert names(line.run(0.5))[2:] == ["waits for the others"]
    assert [record.message for record in caplog.records] == [
        "Redis fails, so submits are counted in this process only: gone",
        "Redis works again, so submits are counted for all processes",
    ]


def test_a_storage_that_stays_away_is_looked_at_every_five_seconds() -> None:
    line = SharedLine()
    line.storage.is_failing = True
    for number in range(40):
        line.arrive(str(number))
    assert len(line.run(19)) == 38
    assert line.storage.calls == 1 + 3


def test_a_storage_that_hangs_holds_no_chat() -> None:
    line = SharedLine(in_background)
    line.storage.go_on.clear()
    for number in range(4):
        line.arrive(str(number))
    assert [at for at, _ in line.run(2)] == [0.1, 0.1, 1.1, 1.1]
    assert line.storage.entered.wait(60)
    line.storage.go_on.set()


def test_the_queue_is_usable_while_a_chat_asks_the_storage() -> None:
    calls: list[Callable[[], None]] = []
    started = threading.Event()

    def hang(call: Callable[[], None]) -> None:
        calls.append(call)
        started.set()

    line = SharedLine(hang, patience=60)
    for name in ("asks", "waits"):
        line.arrive(name)
    line.clock.seconds += 0.1
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(lambda: next(line.chats["asks"][1], None))
        assert started.wait(60)
        line.queue.count_waiting(line.chats["waits"][0], 1)
        waiting = next(line.chats["waits"][1])
        assert (waiting.state, waiting.queue_position) == ("held back", 2)
        calls[0]()
        assert asking.result(60) is None


def test_no_thread_to_ask_the_storage_with_is_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(call: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    line = SharedLine(refuse)
    line.arrive("one")
    assert names(line.run(0.2)) == ["one"]
    assert len(caplog.records) == 1


def test_what_nobody_waits_for_goes_after_all_others() -> None:
    line = Line()
    for number in range(3):
        line.arrive(f"batch {number}", "one", is_background=True)
    for number in range(2):
        line.arrive(f"chat {number}", "one")
        line.arrive(f"other {number}", "two")
    names = [name for _, name in line.run(6)]
    assert set(names[:4]) == {"chat 0", "chat 1", "other 0", "other 1"}
    assert names[4:] == ["batch 0", "batch 1", "batch 2"]


def test_the_background_of_two_clients_takes_turns() -> None:
    line = Line()
    for number in range(3):
        line.arrive(f"a{number}", "a", is_background=True)
    line.arrive("b0", "b", is_background=True)
    names = [name for _, name in line.run(4)]
    assert names.index("b0") < names.index("a2")


def test_the_background_leaves_a_quarter_of_the_keys_places_to_people() -> None:
    line = Line(FREE, concurrency=4)
    ticket = line.queue.new_ticket("key", "one")
    line.queue.count_waiting(ticket, 3)
    line.arrive("batch", is_background=True)
    line.arrive("chat")
    assert [name for _, name in line.run(2)] == ["chat"]
    line.queue.count_waiting(ticket, -1)
    assert [name for _, name in line.run(2)] == ["chat", "batch"]
