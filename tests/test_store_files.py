"""Files in a database: in pieces, each owner's alone, bounded, until they expire.

`FilesBehaviour` is for any database: SQLite is real here, PostgreSQL in tests/live.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from horde_proxy.database.engine import Database
from horde_proxy.errors import InvalidRequest, Unavailable, UpstreamFailed
from horde_proxy.protocol.files import FileFacts, UnknownFile
from horde_proxy.store import files
from horde_proxy.store.batch_schema import SCHEMA
from horde_proxy.store.files import FileStore
from tests.support import Clock
from tests.test_store import WritesFirst

DAY = 86_400


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(url: str, clock: Clock) -> FileStore:
    ids = iter(range(1000))
    database = Database(url, setting="store.database")
    return FileStore(database, days=30, now=clock, new_id=lambda: f"{next(ids):03}")


def add(store: FileStore, owner: str = "ann", *content: bytes, **options: int) -> FileFacts:
    size = sum(map(len, content))
    return store.add(owner, "a.jsonl", "batch", content, size=size, **options)


class FilesBehaviour:
    """Needs the fixture `url`, an empty database."""

    @pytest.fixture
    def store(self, url: str, clock: Clock) -> Iterator[FileStore]:
        store = opened(url, clock)
        yield store
        store._database.close()

    def test_a_file_is_what_was_sent_in_whatever_pieces(self, store: FileStore) -> None:
        content = [b"x" * 700_000, b"", b"y" * 2_600_000, b"z"]
        facts = add(store, "ann", *content)
        assert facts == FileFacts("file-000", "a.jsonl", "batch", 3_300_001, 1000, 1000 + 30 * DAY)
        pieces = list(store.content("ann", facts.id))
        assert [len(piece) for piece in pieces] == [1_000_000, 1_000_000, 1_000_000, 300_001]
        assert b"".join(pieces) == b"".join(content)
        assert store.get("ann", facts.id) == facts

    def test_an_empty_file_is_a_file(self, store: FileStore) -> None:
        assert list(store.content("ann", add(store).id)) == []

    def test_another_owners_file_is_an_unknown_one(self, store: FileStore) -> None:
        facts = add(store, "ann", b"secret")
        for call in (
            lambda: store.get("ben", facts.id),
            lambda: store.content("ben", facts.id),
            lambda: store.delete("ben", facts.id),
            lambda: store.page("ben", limit=9, after=facts.id),
        ):
            with pytest.raises(UnknownFile, match=f"No such File object: {facts.id}"):
                call()
        assert store.page("ben", limit=9) == ([], False)
        assert b"".join(store.content("ann", facts.id)) == b"secret"

    @pytest.mark.parametrize("name", ["a\0b", "\ud800", "", "x" * 5000, "🌹"])
    def test_any_text_is_an_unknown_id(self, store: FileStore, name: str) -> None:
        for call in (
            lambda: store.get("ann", name),
            lambda: store.content("ann", name),
            lambda: store.delete("ann", name),
            lambda: store.page("ann", limit=9, after=name),
        ):
            with pytest.raises(UnknownFile):
                call()
        assert store.page("ann", limit=9, purpose=name) == ([], False)

    def test_a_deleted_file_is_gone(self, store: FileStore) -> None:
        facts = add(store, "ann", b"x" * 1_500_000)
        pieces = store.content("ann", facts.id)
        next(pieces)
        store.delete("ann", facts.id)
        with pytest.raises(UpstreamFailed):
            next(pieces)
        with pytest.raises(UnknownFile):
            store.get("ann", facts.id)

    def test_the_list_has_pages_in_either_order(self, store: FileStore, clock: Clock) -> None:
        ids = []
        for number in range(5):
            # Two of them at the same moment.
            clock.seconds += number // 2
            ids.append(add(store, "ann", b"x").id)
        add(store, "ben", b"x")
        for oldest_first, ordered in ((True, ids), (False, ids[::-1])):
            seen: list[str] = []
            more = True
            while more:
                after = seen[-1] if seen else None
                page, more = store.page("ann", limit=2, after=after, oldest_first=oldest_first)
                seen += [facts.id for facts in page]
            assert seen == ordered

    def test_the_list_may_be_of_one_purpose(self, store: FileStore) -> None:
        add(store, "ann", b"x")
        other = store.add("ann", "a", "vision", [b"y"], size=1)
        assert store.page("ann", limit=9, purpose="vision") == ([other], False)

    def test_files_expire(self, store: FileStore, clock: Clock) -> None:
        short, long = add(store, "ann", b"x", seconds=3600), add(store, "ann", b"y")
        clock.seconds += 3600
        with pytest.raises(UnknownFile):
            store.get("ann", short.id)
        clock.seconds += 30 * DAY
        add(store, "ben", b"z")
        with store._database.begin(SCHEMA) as connection:
            rows = connection.exec_driver_sql("SELECT DISTINCT file_id FROM file_pieces").all()
        assert [row[0] for row in rows] == ["file-002"]
        assert long.expires == 1000 + 30 * DAY

    def test_a_file_that_breaks_off_leaves_nothing(self, store: FileStore) -> None:
        def broken() -> Iterator[bytes]:
            yield b"x" * 1_500_000
            raise OSError

        with pytest.raises(OSError):
            store.add("ann", "a", "batch", broken(), size=9)
        with store._database.begin(SCHEMA) as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM file_pieces").scalar() == 0
            assert connection.exec_driver_sql("SELECT count(*) FROM files").scalar() == 0

    def test_what_a_dead_process_had_begun_is_removed(self, store: FileStore, clock: Clock) -> None:
        store.begin("ann", "a", "batch").write(b"x" * 1_500_000)
        assert store.page("ann", limit=9) == ([], False)
        clock.seconds += 7 * 3600
        store.prune()
        with store._database.begin(SCHEMA) as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM file_pieces").scalar() == 0

    def test_a_clock_that_was_set_back_does_not_stop_that(
        self, store: FileStore, clock: Clock
    ) -> None:
        clock.seconds = 100 * 3600
        store.prune()
        clock.seconds = 3600
        store.begin("ann", "a", "batch").write(b"x" * 1_500_000)
        clock.seconds = 8 * 3600
        store.prune()
        with store._database.begin(SCHEMA) as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM file_pieces").scalar() == 0

    def test_an_owner_has_so_many_bytes(
        self, store: FileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "MOST_BYTES_OF_OWNER", 10)
        monkeypatch.setattr(files, "MOST_BYTES", 15)
        add(store, "ann", b"x" * 10)
        with pytest.raises(InvalidRequest, match="Delete some first") as refused:
            add(store, "ann", b"x")
        assert refused.value.code == "storage_limit_exceeded"
        with pytest.raises(InvalidRequest, match="of all clients"):
            add(store, "ben", b"x" * 6)
        add(store, "ben", b"x" * 5)

    def test_an_owner_has_so_many_files(
        self, store: FileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "MOST_FILES", 1)
        add(store, "ann", b"x")
        with pytest.raises(InvalidRequest):
            add(store, "ann", b"x")


class TestFilesInSQLite(WritesFirst, FilesBehaviour):
    """The same in a file."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/store.db"


def test_a_database_that_fails_is_a_503(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "store.db").mkdir()
    with pytest.raises(Unavailable) as failed:
        opened(f"sqlite:///{tmp_path}/store.db", clock).get("ann", "file-1")
    assert (failed.value.code, str(failed.value)) == (
        "store_failed",
        "Files and batches cannot be stored now.",
    )
