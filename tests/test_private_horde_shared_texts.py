"""Texts that grow in one process and are read in another one, by what the two tell each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from horde_proxy.private_horde.growing_texts import GrowingTexts
from horde_proxy.private_horde.shared_texts import SharedTexts
from horde_proxy.private_horde.signals import Signals
from horde_proxy.private_horde.store.notifier import payloads_of, read_payload


class Process:
    """The texts of one process. What it announces reaches the other one, unless it is lost."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.sent: list[str] = []
        self.is_lost = self.stays = False
        self.other: Process | None = None
        self.texts = GrowingTexts()
        self.shared = SharedTexts(self.texts, cast(Signals, self), clock)

    # What it uses of Signals.

    def receive(self, receiver: Callable[[str], None]) -> None:
        self.receiver = receiver

    def stay(self) -> None:
        self.stays = True

    def announce(self, topic: str) -> None:
        self.sent.append(topic)
        if not self.is_lost and self.other is not None:
            self.other.receiver(topic)

    # What its worker does.

    def write(self, position: int, piece: str, job_id: str = "job") -> None:
        if self.texts.writer("r", 0) != job_id:
            self.texts.take_over("r", 0, job_id, self.texts.text("r", 0)[:position])
        self.texts.extend("r", 0, position, piece)
        self.shared.extended("r", 0, position, piece)


class Pair:
    """A worker's process and a reader's, and their time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.worker, self.reader = Process(lambda: self.now), Process(lambda: self.now)
        self.worker.other, self.reader.other = self.reader, self.worker


def test_a_piece_reaches_the_process_that_reads_its_request() -> None:
    pair = Pair()
    with pair.reader.texts.watching("r") as watch:
        pair.reader.shared.watch("r", {})
        pair.worker.write(0, 'Grüße "🦙"')
        assert watch.texts() == {0: 'Grüße "🦙"'}
        pair.worker.write(9, ", und")
        assert watch.texts() == {0: 'Grüße "🦙", und'}
    assert pair.worker.stays


def test_nothing_is_sent_while_nobody_reads_elsewhere() -> None:
    pair = Pair()
    pair.worker.write(0, "Hello")
    assert pair.worker.sent == []
    pair.reader.shared.watch("other", {})
    pair.worker.write(5, " world")
    assert pair.worker.sent == []
    pair.reader.shared.watch("r", {})
    sent = len(pair.worker.sent)
    pair.now += 10
    pair.worker.write(11, "!")
    assert len(pair.worker.sent) == sent


def test_a_reader_that_comes_late_gets_what_was_not_saved() -> None:
    pair = Pair()
    pair.worker.write(0, "Hello world")
    with pair.reader.texts.watching("r") as watch:
        pair.reader.shared.watch("r", {0: "Hello"})
        assert watch.texts() == {0: "Hello world"}
    assert pair.worker.sent == ['text ["r", 0, "job", 5, " world"]']


def test_after_a_lost_piece_the_next_watch_fills_the_gap() -> None:
    pair = Pair()
    with pair.reader.texts.watching("r") as watch:
        pair.reader.shared.watch("r", {})
        pair.worker.write(0, "one ")
        pair.worker.is_lost = True
        pair.worker.write(4, "two ")
        pair.worker.is_lost = False
        pair.worker.write(8, "three")
        assert watch.texts() == {0: "one "}
        pair.reader.shared.watch("r", {})
        assert watch.texts() == {0: "one two three"}


def test_a_piece_that_is_too_long_comes_from_the_store() -> None:
    pair = Pair()
    with pair.reader.texts.watching("r") as watch:
        pair.reader.shared.watch("r", {})
        pair.worker.write(0, "x" * 10_000)
        assert (pair.worker.sent, watch.texts()) == ([], {})
        pair.reader.shared.watch("r", {0: "x" * 10_000})
        pair.worker.write(10_000, "y")
        assert watch.texts() == {0: "x" * 10_000 + "y"}


def test_another_worker_goes_on_without_what_the_lost_one_did_not_save() -> None:
    pair = Pair()
    with pair.reader.texts.watching("r") as watch:
        pair.reader.shared.watch("r", {})
        pair.worker.write(0, "The capital is", "job 1")
        pair.worker.write(11, " of", "job 2")
        assert watch.texts() == {0: "The capital of"}


def test_a_process_without_readers_keeps_no_texts_of_others() -> None:
    pair = Pair()
    pair.reader.shared.watch("r", {})
    pair.worker.write(0, "Hello")
    assert pair.reader.texts.text("r", 0) == ""


def test_a_change_of_a_request_elsewhere_wakes_its_readers() -> None:
    pair = Pair()
    with pair.reader.texts.watching("r") as watch:
        commits = watch.commits
        pair.reader.receiver("request other")
        assert watch.commits == commits
        pair.reader.receiver("request r")
        assert watch.commits == commits + 1


def test_topics_are_sent_in_as_many_signals_as_they_need() -> None:
    assert payloads_of("me", ["queue", "request r"]) == ['["me", ["queue", "request r"]]']
    payloads = payloads_of("me", ["x" * 3000, "y" * 3000, "z" * 3000])
    assert [len(payload) for payload in payloads] == [6016, 3012]
    assert payloads_of("me", ["x" * 7000] * 30) == ['["me", null]']


@pytest.mark.parametrize(
    "topic",
    ['text ["r"]', "text 5", "watch x", 'watch ["r", 5]', 'text ["r", 0, "job", "0", "a"]'],
)
def test_a_signal_of_another_version_is_passed_over(topic: str) -> None:
    """An error would end the thread that hears the other processes."""
    pair = Pair()
    with pair.reader.texts.watching("r") as watch:
        pair.reader.shared.watch("r", {})
        pair.worker.write(0, "Hello")
        pair.reader.receiver(topic)
        pair.worker.receiver(topic)
        pair.worker.write(5, " world")
        assert watch.texts() == {0: "Hello world"}


@pytest.mark.parametrize(
    ("payload", "sender", "topics"),
    [
        ('["a1", ["queue", "request r"]]', "a1", ["queue", "request r"]),
        ('["a1", null]', "a1", None),
        ('["a1", 5]', "a1", None),
        ('["a1", [5]]', "a1", None),
        ('["a1"]', "", None),
        ("5", "", None),
        ("", "", None),
    ],
)
def test_a_notify_of_another_program_wakes_all(payload: str, sender: str, topics: Any) -> None:
    assert read_payload(payload) == (sender, topics)
