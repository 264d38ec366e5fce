"""Batches in a database: their states, lines and result files, each owner's alone.

`BatchesBehaviour` is for any database: SQLite is real here, PostgreSQL in tests/live.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.database.engine import Database
from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.batches import (
    BatchFacts,
    BatchFault,
    BatchRequest,
    BatchUsage,
    UnknownBatch,
)
from horde_proxy.protocol.files import UnknownFile
from horde_proxy.store import batches
from horde_proxy.store.batch_records import LineResult, StoredBatch
from horde_proxy.store.batch_schema import SCHEMA
from horde_proxy.store.batches import BatchStore
from horde_proxy.store.files import FileStore
from horde_proxy.store.jobs import JobStore
from tests.support import Clock
from tests.test_store import WritesFirst

CHATS = "/v1/chat/completions"
IDENTITY = {"client": "key 1", "horde_key": "secret"}


class Stored:
    """A store of files and batches, and what its tests do again and again."""

    def __init__(self, url: str) -> None:
        ids = iter(range(10_000))
        self.clock = Clock()
        self.database = Database(url, setting="store.database")
        seams: Any = {"now": self.clock, "new_id": lambda: f"{next(ids):04}"}
        self.files = FileStore(self.database, days=30, **seams)
        self.jobs = JobStore(self.database, now=self.clock)
        self.batches = BatchStore(self.database, self.files, self.jobs, days=30, **seams)

    def input(self, *lines: Any, owner: str = "ann") -> str:
        content = "\n".join(json.dumps(line) for line in lines).encode()
        return self.files.add(owner, "in", "batch", [content], size=len(content)).id

    def create(self, *lines: Any, owner: str = "ann", **changes: Any) -> BatchFacts:
        request = BatchRequest(self.input(*lines, owner=owner), CHATS, None, None)
        return self.batches.create(owner, replace(request, **changes), IDENTITY)

    def started(self, *lines: Any, **changes: Any) -> StoredBatch:
        """A batch whose input was checked."""
        batch = self.running(self.create(*lines, **changes))
        self.batches.check_input(batch, 1000)
        return self.running(batch)

    def running(self, batch: BatchFacts | StoredBatch) -> StoredBatch:
        running = self.batches.unfinished(batch.id)
        assert running is not None
        return running

    def lines_of(self, file_id: str | None) -> list[Any]:
        assert file_id is not None
        content = b"".join(self.files.content("ann", file_id))
        assert content.endswith(b"\n")
        return [json.loads(line) for line in content.splitlines()]

    def count_lines(self) -> Any:
        with self.database.begin(SCHEMA) as connection:
            return connection.exec_driver_sql("SELECT count(*) FROM batch_lines").scalar()

    def claimed(self) -> list[tuple[str, Any]]:
        """What the jobs that are due are about: they are this process' now."""
        return [(job.kind, job.details) for job in self.jobs.claim("p", 1000)]


def line(custom_id: str = "a", **changes: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": []}
    return {"custom_id": custom_id, "method": "POST", "url": CHATS, "body": body, **changes}


def result(content: bytes = b"{}", *, good: bool = True) -> LineResult:
    return LineResult(content, good, BatchUsage(4, 3, 2, 1))


class BatchesBehaviour:
    """Needs the fixture `url`, an empty database."""

    @pytest.fixture
    def stored(self, url: str) -> Iterator[Stored]:
        stored = Stored(url)
        yield stored
        stored.database.close()

    def test_a_new_batch_is_being_validated(self, stored: Stored) -> None:
        facts = stored.create(line(), metadata={"a": "b"})
        assert (facts.status, facts.created, facts.expires) == ("validating", 1000, 87_400)
        assert (facts.total, facts.metadata) == (0, {"a": "b"})
        assert stored.running(facts).identity == IDENTITY
        assert stored.claimed() == [("batch", {"batch": facts.id})]

    def test_a_batch_of_an_unknown_file_is_refused(self, stored: Stored) -> None:
        request = BatchRequest(stored.input(line(), owner="ben"), CHATS, None, None)
        with pytest.raises(UnknownFile):
            stored.batches.create("ann", request, IDENTITY)

    def test_the_lines_of_the_input_wait_to_be_run(self, stored: Stored) -> None:
        batch = stored.started(line("a\0"), line("b"), line("c"))
        facts = stored.batches.get("ann", batch.id)
        assert (facts.status, facts.total, facts.model) == ("in_progress", 3, "m")
        assert facts.times.in_progress == 1000
        waiting = stored.batches.lines.waiting(batch.id, 2)
        assert [(line.number, line.custom_id) for line in waiting] == [(1, "a\0"), (2, "b")]
        assert waiting[0].body == b'{"model":"m","messages":[]}'
        rest = stored.batches.lines.waiting(batch.id, 2, after=2)
        assert [line.number for line in rest] == [3]

    def test_an_input_that_is_checked_again_has_its_lines_once(self, stored: Stored) -> None:
        batch = stored.running(stored.create(line("a"), line("b")))
        for _ in range(2):
            stored.batches.check_input(batch, 1000)
        assert stored.count_lines() == 2
        assert [details.get("line") for _, details in stored.claimed()] == [None, 1, 2]

    def test_a_wrong_input_fails_as_a_whole(self, stored: Stored) -> None:
        facts = stored.create(line("a"), line("a"), line("b", method="GET"))
        stored.batches.check_input(stored.running(facts), 1000)
        facts = stored.batches.get("ann", facts.id)
        assert (facts.status, facts.times.failed, facts.total) == ("failed", 1000, 0)
        assert [(fault.code, fault.line) for fault in facts.faults] == [
            ("duplicate_custom_id", 2),
            ("invalid_method", 3),
        ]
        assert stored.batches.unfinished(facts.id) is None
        assert stored.count_lines() == 0

    def test_an_input_that_was_deleted_fails(self, stored: Stored) -> None:
        facts = stored.create(line("a"))
        stored.files.delete("ann", facts.input_file_id)
        stored.batches.check_input(stored.running(facts), 1000)
        assert stored.batches.get("ann", facts.id).faults == (
            BatchFault(
                "invalid_input_file",
                "The input file was deleted, or has expired, before it could be read.",
                param="input_file_id",
            ),
        )

    def test_results_become_files(self, stored: Stored) -> None:
        batch = stored.started(line("a"), line("b"), line("c"))
        assert stored.batches.end_line(batch.id, 2, result(b'{"n":2}'))
        assert stored.batches.end_line(batch.id, 1, result(b'{"n":1}'))
        assert stored.batches.end_line(batch.id, 3, result(b'{"n":3}', good=False))
        facts = stored.batches.get("ann", batch.id)
        assert (facts.succeeded, facts.failed) == (2, 1)
        assert facts.usage == BatchUsage(12, 9, 6, 3)
        assert not stored.batches.lines.has_waiting(batch.id)
        stored.batches.finish(batch, "completed")
        facts = stored.batches.get("ann", batch.id)
        assert (facts.status, facts.total, facts.succeeded, facts.failed) == ("completed", 3, 2, 1)
        assert (facts.times.finalizing, facts.times.completed) == (1000, 1000)
        assert stored.lines_of(facts.output_file_id) == [{"n": 1}, {"n": 2}]
        assert stored.lines_of(facts.error_file_id) == [{"n": 3}]
        files, _ = stored.files.page("ann", limit=9, purpose="batch_output")
        assert {file.id for file in files} == {facts.output_file_id, facts.error_file_id}
        assert stored.count_lines() == 0
        assert stored.batches.unfinished(batch.id) is None

    @pytest.mark.parametrize("good", [True, False])
    def test_a_batch_has_no_empty_result_file(self, stored: Stored, good: bool) -> None:
        batch = stored.started(line("a"))
        stored.batches.end_line(batch.id, 1, result(good=good))
        stored.batches.finish(batch, "completed")
        facts = stored.batches.get("ann", batch.id)
        assert (facts.output_file_id is None, facts.error_file_id is None) == (not good, good)

    def test_a_line_ends_once(self, stored: Stored) -> None:
        batch = stored.started(line("a"), line("b"))
        assert stored.batches.end_line(batch.id, 1, result(b'{"n":1}'))
        assert not stored.batches.end_line(batch.id, 1, result(b'{"n":2}'))
        assert stored.batches.get("ann", batch.id).succeeded == 1

    def test_a_batch_that_is_finished_again_keeps_its_files(self, stored: Stored) -> None:
        batch = stored.started(line("a"))
        stored.batches.end_line(batch.id, 1, result())
        stored.batches.finish(batch, "completed")
        before = stored.batches.get("ann", batch.id)
        stored.batches.finish(batch, "expired")
        assert stored.batches.get("ann", batch.id) == before

    def test_lines_that_never_ran_are_in_the_error_file(self, stored: Stored) -> None:
        batch = stored.started(*(line(f"line-{number}") for number in range(50)))
        stored.batches.end_line(batch.id, 1, result(b'{"n":1}'))
        stored.batches.finish(batch, "expired", "batch_expired", "It was too late.")
        facts = stored.batches.get("ann", batch.id)
        assert (facts.status, facts.succeeded, facts.failed) == ("expired", 1, 49)
        assert stored.lines_of(facts.output_file_id) == [{"n": 1}]
        unanswered = stored.lines_of(facts.error_file_id)
        assert unanswered[0] == {
            "id": "batch_req_0001_2",
            "custom_id": "line-1",
            "response": None,
            "error": {"code": "batch_expired", "message": "It was too late."},
        }
        assert len({each["custom_id"] for each in unanswered}) == 49

    def test_result_files_expire_when_their_owner_says(self, stored: Stored) -> None:
        batch = stored.started(line("a"), result_seconds=3600)
        stored.batches.end_line(batch.id, 1, result())
        stored.batches.finish(batch, "completed")
        [file] = stored.files.page("ann", limit=9, purpose="batch_output")[0]
        assert file.expires == 1000 + 3600

    def test_cancelling_is_a_state_and_may_be_repeated(self, stored: Stored) -> None:
        batch = stored.started(line("a"))
        for _ in range(2):
            facts = stored.batches.cancel("ann", batch.id)
            assert (facts.status, facts.times.cancelling) == ("cancelling", 1000)
        kinds = [kind for kind, _ in stored.claimed()]
        assert kinds == ["batch", "batch", "batch line"]
        stored.batches.finish(batch, "cancelled", "batch_cancelled", "It was cancelled.")
        assert stored.batches.cancel("ann", batch.id).status == "cancelled"

    def test_a_batch_that_has_ended_cannot_be_cancelled(self, stored: Stored) -> None:
        batch = stored.started(line("a"))
        stored.batches.finish(batch, "completed")
        with pytest.raises(
            InvalidRequest, match="This batch cannot be cancelled: it is completed."
        ):
            stored.batches.cancel("ann", batch.id)

    def test_a_batch_that_is_cancelled_while_it_is_validated_stays_so(self, stored: Stored) -> None:
        batch = stored.running(stored.create(line("a")))
        stored.batches.cancel("ann", batch.id)
        stored.batches.check_input(batch, 1000)
        assert stored.batches.get("ann", batch.id).status == "cancelling"
        assert stored.count_lines() == 0

    def test_lines_become_jobs_little_by_little(self, stored: Stored) -> None:
        batch = stored.started(*(line(f"line-{number}") for number in range(300)))

        def numbers() -> list[int]:
            return [details["line"] for kind, details in stored.claimed() if kind == "batch line"]

        assert numbers() == list(range(1, 201))
        stored.batches.add_line_jobs(batch)
        assert numbers() == []
        for number in range(1, 151):
            stored.jobs.remove("p", f"{batch.id}-line-{number}")
        for _ in range(2):
            stored.batches.add_line_jobs(batch)
        assert numbers() == list(range(201, 301))

    def test_no_line_becomes_a_job_of_a_batch_that_is_cancelled(self, stored: Stored) -> None:
        batch = stored.started(*(line(f"line-{number}") for number in range(300)))
        stored.batches.cancel("ann", batch.id)
        stored.jobs.cancel(group=batch.id)
        stored.batches.add_line_jobs(batch)
        assert [kind for kind, _ in stored.claimed()] == ["batch", "batch"]

    def test_a_batch_is_looked_at_when_its_day_is_over(self, stored: Stored) -> None:
        batch = stored.started(line("a"))
        assert [kind for kind, _ in stored.claimed()] == ["batch", "batch line"]
        stored.jobs.cancel(group=batch.id)
        stored.clock.seconds += 86_399
        stored.jobs.renew("p", [f"{batch.id}-line-1", f"{batch.id}-0002"])
        assert stored.claimed() == []
        stored.clock.seconds += 1
        assert stored.claimed() == [("batch", {"batch": batch.id})]

    def test_a_clients_key_is_erased_when_its_batch_ends(self, stored: Stored) -> None:
        batch = stored.started(line("a"))
        stored.batches.finish(batch, "completed")
        wrong = stored.running(stored.create(line("b", method="GET")))
        stored.batches.check_input(wrong, 1000)
        with stored.database.begin(SCHEMA) as connection:
            rows = connection.exec_driver_sql("SELECT identity FROM batches").all()
        assert [tuple(row) for row in rows] == [(None,), (None,)]

    def test_another_owners_batch_is_an_unknown_one(self, stored: Stored) -> None:
        batch = stored.started(line("a"))
        for call in (
            lambda: stored.batches.get("ben", batch.id),
            lambda: stored.batches.cancel("ben", batch.id),
            lambda: stored.batches.page("ben", limit=9, after=batch.id),
        ):
            with pytest.raises(UnknownBatch, match=f"No batch found with id '{batch.id}'."):
                call()
        assert stored.batches.page("ben", limit=9) == ([], False)

    @pytest.mark.parametrize("name", ["a\0b", "\ud800", "", "x" * 5000, "🌹"])
    def test_any_text_is_an_unknown_id(self, stored: Stored, name: str) -> None:
        for call in (
            lambda: stored.batches.get("ann", name),
            lambda: stored.batches.cancel("ann", name),
            lambda: stored.batches.page("ann", limit=9, after=name),
            lambda: stored.batches.page("ann", limit=9, before=name),
        ):
            with pytest.raises(UnknownBatch):
                call()
        stored.batches.delete("ann", name)
        with pytest.raises(UnknownFile):
            stored.batches.create("ann", BatchRequest(name, CHATS, None, None), IDENTITY)

    def test_the_list_has_pages(self, stored: Stored) -> None:
        ids = []
        for number in range(5):
            stored.clock.seconds += number // 2
            ids.append(stored.create(line("a")).id)
        seen: list[str] = []
        more = True
        while more:
            page, more = stored.batches.page("ann", limit=2, after=seen[-1] if seen else None)
            seen += [facts.id for facts in page]
        assert seen == ids[::-1]

    def test_an_owner_has_so_many_unfinished_batches(
        self, stored: Stored, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batches, "MOST_UNFINISHED", 1)
        stored.create(line("a"))
        with pytest.raises(InvalidRequest) as refused:
            stored.create(line("a"))
        assert refused.value.code == "too_many_batches"
        stored.create(line("a"), owner="ben")
        monkeypatch.setattr(batches, "MOST_UNFINISHED_OF_ALL", 2)
        with pytest.raises(InvalidRequest, match="This proxy has 2 batches"):
            stored.create(line("a"), owner="cat")

    def test_batches_are_forgotten_after_so_many_days(self, stored: Stored) -> None:
        batch = stored.started(line("a"))
        stored.clock.seconds += 40 * 86_400
        stored.create(line("b"))
        assert stored.running(batch).id == batch.id
        stored.batches.finish(batch, "expired")
        stored.create(line("c"))
        with pytest.raises(UnknownBatch):
            stored.batches.get("ann", batch.id)


class TestBatchesInSQLite(WritesFirst, BatchesBehaviour):
    """The same in a file."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/store.db"
