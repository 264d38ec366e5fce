"""The stores of the private horde: transactions, queries, and what is left after a restart.

`StoreBehaviour` holds for any store; memory and SQLite are here, PostgreSQL is in tests/live.
"""

from __future__ import annotations

import base64
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import Any, cast, get_origin, get_type_hints
from urllib.parse import parse_qsl, urlsplit

import pytest
from sqlalchemy import inspect

from horde_proxy.aihorde.transcript import line
from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.pictures import Raster
from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.errors import HordeError
from horde_proxy.private_horde.records import (
    NEW,
    AccountKey,
    HordeAccount,
    HordeRequest,
    Job,
    LedgerEntry,
    UseCount,
    Worker,
)
from horde_proxy.private_horde.signals import QUEUE, request_topic
from horde_proxy.private_horde.store.base import KeyTaken, Store
from horde_proxy.private_horde.store.connections import Connections, Line
from horde_proxy.private_horde.store.durability import Durability
from horde_proxy.private_horde.store.kinds import KINDS
from horde_proxy.private_horde.store.libpq import encoded, type_of
from horde_proxy.private_horde.store.memory import MemoryStore
from horde_proxy.private_horde.store.opening import open_store
from horde_proxy.private_horde.store.statements import numbered
from horde_proxy.private_horde.store.tables import SCHEMA, TABLES, WAITING
from horde_proxy.private_horde.stored_pictures import PictureBytes, StoredPicture

OWNER = "<owner-apikey>"
CLIENT = "<client-apikey>"
EMOJI, HALF = "Grüße 🦙", "half \ud83e"


def request(name: str, rank: float = 0.0, **values: Any) -> HordeRequest:
    return HordeRequest(
        **{
            "id": name,
            "account_id": 1,
            "n": 2,
            "max_length": 80,
            "max_context_length": 2048,
            "prompt_length": 3,
            "models": ("a",),
            "workers": (),
            "worker_blacklist": False,
            "trusted_workers": False,
            "validated_backends": False,
            "slow_workers": True,
            "created": 1.0,
            "rank": rank,
            "queued_at": 1.0,
            "expires": 100.0,
            "waiting": 2,
            **values,
        }
    )


def worker(name: str, **values: Any) -> Worker:
    offer = (("a", EMOJI), 512, 10**30, 1, True, HALF)
    return Worker(f"id of {name}", name, 1, 1.0, values.pop("last_seen", 1.0), *offer, **values)


def job(name: str, deadline: float | None = 10.0) -> Job:
    return Job(name, "r", "w", 1, "a", popped=1.0, deadline=deadline)


def use(start: int, width: int = 1, model: str = "a", account_id: int = 1) -> UseCount:
    return UseCount(width, start, account_id, model, 1, 80, 2.5)


def add(store: Store, *records: Any) -> None:
    with store.transaction() as tx:
        for record in records:
            tx.add(record)


class StoreBehaviour:
    """Needs the fixture `store`, an empty one."""

    def test_a_record_comes_back_as_it_was_added(self, store: Store) -> None:
        added = worker("w", speeds=(("a", 5.5), ("b", 1.0)), maintenance=True)
        add(store, added, request("r", models=("a", "b"), workers=("w",), faulted=True))
        with store.snapshot() as tx:
            [found] = tx.find(Worker, name="w")
            stored = tx.get(HordeRequest, "r")
        assert (found.models, found.speeds) == (("a", EMOJI), (("a", 5.5), ("b", 1.0)))
        assert (found.maintenance, found.trusted, found.last_seen) == (True, False, 1.0)
        assert stored is not None
        assert (stored.models, stored.workers, stored.faulted) == (("a", "b"), ("w",), True)

    def test_a_picture_comes_back_with_all_of_its_bytes(self, store: Store) -> None:
        data = bytes(range(256)) * 10
        add(store, PictureBytes("p", data), PictureBytes("empty", b""))
        with store.snapshot() as tx:
            stored, empty = (tx.get(PictureBytes, name) for name in ("p", "empty"))
        assert stored is not None
        assert empty is not None
        assert (stored.data, empty.data) == (data, b"")

    def test_a_field_is_summed_up(self, store: Store) -> None:
        with store.snapshot() as tx:
            assert tx.total(StoredPicture, "size") == 0
        pictures = [StoredPicture(f"p{n}", "r", "webp", n, 64, 64, 1.0) for n in (1, 20, 300)]
        add(store, *pictures)
        with store.transaction() as tx:
            assert tx.total(StoredPicture, "size") == 321
            tx.delete(pictures[1])
        with store.snapshot() as tx:
            assert tx.total(StoredPicture, "size") == 301

    def test_each_kind_of_requests_has_its_own_queue(self, store: Store) -> None:
        image: Any = {"kind": "image", "needs": {"work": 5}}
        add(
            store,
            request("text"),
            request("image", **image),
            request("any text", models=()),
            request("any image", models=(), **image),
        )
        with store.snapshot() as tx:
            texts = [found.id for found in tx.waiting(["a"])]
            images = [found.id for found in tx.waiting(["a"], None, "image")]
            assert tx.get(HordeRequest, "image").needs == {"work": 5}  # type: ignore[union-attr]
        assert (texts, images) == (["any text", "text"], ["any image", "image"])

    def test_the_newest_of_many_records_are_found(self, store: Store) -> None:
        owners = enumerate((1, 2, 1, 1))
        add(store, *(LedgerEntry(NEW, owner, 1.0, float(n), "gift") for n, owner in owners))
        with store.snapshot() as tx:
            newest = tx.newest(LedgerEntry, 2, account_id=1)
            assert [entry.amount for entry in newest] == [3.0, 2.0]
            assert len(tx.newest(LedgerEntry, 9, account_id=1)) == 3
            assert tx.newest(LedgerEntry, 9, account_id=3) == []

    def test_what_fails_leaves_no_trace(self, store: Store) -> None:
        add(store, request("old"))
        with pytest.raises(KeyError), store.transaction() as tx:
            tx.add(request("new"))
            old = tx.lock(HordeRequest, "old")
            assert old is not None
            old.waiting = 0
            tx.save(old)
            tx.count_use(use(5))
            raise KeyError
        with store.snapshot() as tx:
            assert tx.get(HordeRequest, "new") is None
            assert [found.waiting for found in tx.waiting(["a"])] == [2]
            assert tx.use_by_model(1, 0) == {}

    def test_a_transaction_sees_its_own_changes(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.add(job("j"))
            [found] = tx.find(Job, request_id="r")
            found.state = "ok"
            tx.save(found)
            again = tx.get(Job, "j")
            assert again is not None and again.state == "ok"
            tx.delete(found)
            assert tx.get(Job, "j") is None
            assert tx.find(Job, request_id="r") == []
        with store.snapshot() as tx:
            assert tx.get(Job, "j") is None

    def test_what_is_unique_is_taken_once(self, store: Store) -> None:
        add(store, worker("w"), AccountKey("digest", 1, 1.0))
        for record in (worker("w"), AccountKey("digest", 2, 1.0)):
            with pytest.raises(KeyTaken), store.transaction() as tx:
                tx.add(record)

    def test_accounts_are_numbered_and_zero_can_be_chosen(self, store: Store) -> None:
        accounts = [HordeAccount(number, "x", 1.0) for number in (0, NEW, NEW)]
        add(store, *accounts)
        assert [account.id for account in accounts] == [0, 1, 2]

    def test_ledger_entries_are_in_order(self, store: Store) -> None:
        add(store, *(LedgerEntry(NEW, 1, 1.0, float(number), "tax") for number in range(12)))
        add(store, LedgerEntry(NEW, 1, 1.0, 12.0, "tax"), LedgerEntry(NEW, 2, 1.0, 0.0, "tax"))
        with store.snapshot() as tx:
            entries = tx.find(LedgerEntry, account_id=1)
        assert [entry.amount for entry in entries] == list(range(13))

    def test_counters_of_many_threads_add_up(self, store: Store) -> None:
        add(store, HordeAccount(NEW, "x", 1.0))

        def earn(_: int) -> None:
            with store.transaction() as tx:
                account = tx.get(HordeAccount, 1)
                assert account is not None
                account.kudos += 1.0
                account.jobs_done += 1
                tx.save(account)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(earn, range(40)))
        with store.snapshot() as tx:
            account = tx.get(HordeAccount, 1)
        assert account is not None and (account.kudos, account.jobs_done) == (40.0, 40)

    def test_the_queue_is_read_in_order_without_repeats(self, store: Store) -> None:
        numbers = [37 * number % 300 for number in range(300)]
        models = [("a",), (), ("a", "b"), ("c",), ("b", "b")]
        add(store, *(request(f"{n:03}", n // 3, models=models[n % 5]) for n in numbers))
        with store.snapshot() as tx:
            found = [r.id for r in tx.waiting(["b", "a", "zz"])]
            assert found == [f"{n:03}" for n in range(300) if n % 5 != 3]
            assert [r.id for r in tx.waiting(["zz"])] == [f"{n:03}" for n in range(1, 300, 5)]

    def test_the_queue_has_what_waits_only(self, store: Store) -> None:
        add(
            store,
            request("waits"),
            request("popped", waiting=0),
            request("faulted", faulted=True),
            request("forgotten", expires=None),
            request("of another", account_id=2, rank=-1),
        )
        with store.snapshot() as tx:
            assert [r.id for r in tx.waiting(["a"])] == ["of another", "waits"]
            assert [r.id for r in tx.waiting(["a"], 1)] == ["waits"]
            assert [r.id for r in tx.open_requests(1)] == ["popped", "waits"] or [
                r.id for r in tx.open_requests(1)
            ] == ["waits", "popped"]

    def test_the_queue_follows_changes(self, store: Store) -> None:
        add(store, request("r", models=("a", "b")))

        def change(**values: Any) -> list[str]:
            with store.transaction() as tx:
                record = tx.lock(HordeRequest, "r")
                assert record is not None
                vars(record).update(values)
                tx.save(record)
            with store.snapshot() as tx:
                return [r.id for r in tx.waiting(["b"])]

        assert change(waiting=1) == ["r"]
        assert change(waiting=0) == []
        assert change(waiting=1) == ["r"]
        assert change(faulted=True) == []
        with store.transaction() as tx:
            record = tx.get(HordeRequest, "r")
            tx.delete(record)
        with store.snapshot() as tx:
            assert list(tx.waiting(["a", "b"])) == []

    def test_pages_are_in_order_of_a_field(self, store: Store) -> None:
        add(store, *(HordeAccount(n, "x", 1.0, kudos=kudos) for n, kudos in enumerate((5, 7, 5))))
        with store.snapshot() as tx:
            first = tx.page(HordeAccount, "kudos", descending=True, offset=0, limit=2)
            rest = tx.page(HordeAccount, "kudos", descending=True, offset=2, limit=2)
            oldest = tx.page(HordeAccount, "created", descending=False, offset=0, limit=9)
        assert [account.id for account in (*first, *rest)] == [1, 0, 2]
        assert [account.id for account in oldest] == [0, 1, 2]

    def test_what_is_due_comes_in_order_of_its_time(self, store: Store) -> None:
        add(store, job("never", None), job("late", 30.0), job("soon", 10.0), job("next", 20.0))
        with store.transaction() as tx:
            assert tx.next_due(Job) == 10.0
            assert [found.id for found in tx.due(Job, 20.0, 10)] == ["soon", "next"]
            assert [found.id for found in tx.due(Job, 90.0, 1)] == ["soon"]
            assert [found.id for found in tx.due_after(Job, 10.0)] in (
                ["late", "next"],
                ["next", "late"],
            )
            soon = tx.lock(Job, "soon")
            assert soon is not None
            soon.deadline = None
            tx.save(soon)
        with store.snapshot() as tx:
            assert tx.next_due(Job) == 20.0
            assert tx.next_due(HordeRequest) is None

    def test_use_adds_up_and_can_be_taken(self, store: Store) -> None:
        for _ in range(2):
            with store.transaction() as tx:
                for record in (use(5), use(6), use(6, model="b"), use(6, account_id=2)):
                    tx.count_use(record)
        with store.transaction() as tx:
            assert tx.use_by_model(1, 5) == {"a": (4, 320), "b": (2, 160)}
            assert tx.use_by_model(1, 4) == {"a": (6, 480), "b": (2, 160)}
            assert tx.use_by_model(3600, 0) == {}
            [taken] = tx.take_use(1, 5)
            assert (taken.jobs, taken.tokens, taken.kudos) == (2, 160, 5.0)
        with store.snapshot() as tx:
            assert tx.use_by_model(1, 4) == {"a": (4, 320), "b": (2, 160)}

    def test_workers_are_found_by_the_time_of_their_last_pop(self, store: Store) -> None:
        add(store, *(worker(f"w{n}", last_seen=float(n)) for n in (3, 1, 2)))
        with store.snapshot() as tx:
            assert [found.name for found in tx.workers_since(1.0)] == ["w2", "w3"]

    def test_observers_see_what_was_committed(self, store: Store) -> None:
        seen: list[Any] = []
        store.observe(seen.append)
        with pytest.raises(KeyError), store.transaction() as tx:
            tx.add(request("lost"))
            raise KeyError
        with store.transaction() as tx:
            tx.add(request("r"))
            tx.add(job("j"))
        assert [sorted(type(record).__name__ for record in records) for records in seen] == [
            ["HordeRequest", "Job"]
        ]

    def test_two_first_pops_of_one_name_are_both_answered(self, store: Store) -> None:
        horde = PrivateHorde(store=store, clock=lambda: 1000.0)
        horde.add_account(OWNER, "owner")
        with ThreadPoolExecutor(6) as pool:
            pops = [
                pool.submit(horde.pop, OWNER, {"name": "w", "models": ["test"]}) for _ in range(6)
            ]
        assert [pop.result()["id"] for pop in pops] == [None] * 6
        assert [found["name"] for found in horde.fleet.workers()] == ["w"]


class SignalBehaviour:
    """Needs the fixture `url`, an empty database."""

    @pytest.fixture
    def hordes(self, url: str) -> Iterator[list[PrivateHorde]]:
        hordes = [PrivateHorde(store=open_store(url)) for _ in range(2)]
        hordes[0].add_account(OWNER, "owner")
        yield hordes
        for horde in hordes:
            horde.store.close()

    @pytest.mark.parametrize("number", [0, 1])
    def test_a_result_ends_the_wait_for_its_request(
        self, hordes: list[PrivateHorde], number: int
    ) -> None:
        waiting = hordes[number]
        request_id = hordes[0].submit(OWNER, {"prompt": "x", "models": ["test"]})["id"]
        job_id = hordes[0].pop(OWNER, {"name": "w", "models": ["test"]})["id"]
        done = threading.Event()

        def wait() -> bool:
            with waiting.signals.listen(request_topic(request_id)) as listener:
                done.set()
                while not waiting.status(request_id)["done"]:
                    if not listener.wait(60):
                        return False
            return True

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(wait)
            assert done.wait(60)
            hordes[0].submit_generation(OWNER, {"id": job_id, "generation": "y"})
            assert future.result(60)

    def test_a_request_ends_the_wait_for_the_queue(self, hordes: list[PrivateHorde]) -> None:
        offer = {"name": "w", "models": ["test"]}
        listening = threading.Event()

        def pop() -> Any:
            with hordes[1].signals.listen(QUEUE) as listener:
                listening.set()
                while (job := hordes[1].pop(OWNER, offer))["id"] is None:
                    if not listener.wait(60):
                        return None
            return job["id"]

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(pop)
            assert listening.wait(60)
            hordes[0].submit(OWNER, {"prompt": "x", "models": ["test"]})
            assert future.result(60)


class TestSqliteSignals(SignalBehaviour):
    """Waiting for what another process does with a file."""


def test_a_listener_waits_for_its_own_topic_only() -> None:
    horde = PrivateHorde()
    horde.add_account(OWNER, "owner")
    with horde.signals.listen("request other") as other, horde.signals.listen(QUEUE) as listener:
        assert listener.wait(0) is False
        horde.submit(OWNER, {"prompt": "x"})
        # What happened before the wait counts, and once.
        assert [listener.wait(0), listener.wait(0), other.wait(0)] == [True, False, False]
        horde.signals.notify("request other")
        assert [listener.wait(0), other.wait(0)] == [False, True]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/horde.db"


class TestMemory(StoreBehaviour):
    """All that a store does, in memory."""

    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class _Vanishing(HordeAccount):
    """An account; another one is deleted as soon as a page looks at it."""

    rows: Any = None

    def __getattribute__(self, name: str) -> Any:
        if name == "kudos" and self.rows is not None:
            self.rows.by_key.pop(2, None)
        return super().__getattribute__(name)


def test_a_page_is_read_while_a_record_is_deleted() -> None:
    store = MemoryStore()
    accounts = [_Vanishing(number, "x", 1.0, kudos=float(number)) for number in range(4)]
    rows = store.rows[HordeAccount]
    for account in accounts:
        rows.put(account.id, account)
    accounts[0].rows = rows
    with store.snapshot() as tx:
        page = tx.page(HordeAccount, "kudos", descending=True, offset=0, limit=9)
    assert [account.id for account in page] == [3, 1, 0]


class TestSqlite(StoreBehaviour):
    """All that a store does, in a file."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        store = open_store(url)
        yield store
        store.close()


class TableBehaviour:
    """Needs the fixture `url`, an empty database."""

    def test_each_field_of_a_record_has_its_column(self, url: str) -> None:
        database = Database(url, setting="private_horde.database")
        with database.begin(SCHEMA) as connection:
            inspector = inspect(connection)
            tables = set(inspector.get_table_names())
            assert tables == {*TABLES.values(), WAITING, "schema_versions"}
            assert set(KINDS) == set(TABLES)
            for record, table in TABLES.items():
                columns = {
                    column["name"]: str(column["type"]).replace("DOUBLE PRECISION", "FLOAT")
                    for column in inspector.get_columns(table)
                }
                alike = {"INTEGER": "BIGINT", "BYTEA": "BLOB"}
                columns = {name: alike.get(kind, kind) for name, kind in columns.items()}
                hints = get_type_hints(record)
                assert columns == {f.name: column_type(hints[f.name]) for f in fields(record)}
        database.close()


def parts_of(link: str) -> tuple[str, str, str]:
    """The id, the expiry and the signature of a link to a picture."""
    parts = urlsplit(link)
    query = dict(parse_qsl(parts.query))
    name = parts.path.rpartition("/")[2].partition(".")[0]
    return name, query["expires"], query["signature"]


def column_type(hint: Any) -> str:
    names: dict[Any, str] = {int: "BIGINT", float: "FLOAT", bool: "BOOLEAN"}
    names |= {int | None: "BIGINT", float | None: "FLOAT", bytes: "BLOB"}
    return "TEXT" if get_origin(hint) in (tuple, list, dict) else names.get(hint, "TEXT")


class TestSqliteTables(TableBehaviour):
    """The migrations make the tables of the records."""


class RestartBehaviour:
    """Needs the fixture `url`, an empty database. Each `horde` is a new process's."""

    @pytest.fixture
    def start(self, url: str) -> Iterator[Callable[[float], PrivateHorde]]:
        stores: list[Store] = []
        numbers = count()

        def start(now: float) -> PrivateHorde:
            stores.append(open_store(url))
            return PrivateHorde(
                store=stores[-1], clock=lambda: now, new_id=lambda: f"id-{next(numbers)}"
            )

        yield start
        for store in stores:
            store.close()

    def test_images_and_their_links_outlast_a_restart(
        self, start: Callable[[float], PrivateHorde]
    ) -> None:
        picture = Raster.plain(64, 64, (1, 2, 3)).encoded("png")
        source = base64.b64encode(picture).decode("ascii")
        horde = start(1000.0)
        horde.add_account(OWNER, "owner", trusted=True)
        horde.add_account(CLIENT, "client", kudos=100.0)
        body = {"prompt": EMOJI + HALF, "params": {"n": 3}, "nsfw": False, "source_image": source}
        request_id = horde.images.submit(CLIENT, body, "", "http://h")["id"]
        offer = {"name": "w", "models": ["stable_diffusion"]}
        first = horde.images.pop(OWNER, offer, "", "http://h")
        assert horde.images.picture(*parts_of(first["source_image"]))[0] == "webp"
        horde.images.upload(*parts_of(first["r2_upload"]), lambda: picture)

        horde = start(1010.0)
        horde.images.submit_generation(OWNER, {"id": first["id"], "generation": "R2", "seed": 1})
        second = horde.images.pop(OWNER, offer, "", "http://h")
        assert second["payload"]["prompt"] == EMOJI + "half ?"

        horde = start(1020.0)
        horde.images.upload(*parts_of(second["r2_upload"]), lambda: picture)
        horde.images.submit_generation(OWNER, {"id": second["id"], "generation": "R2", "seed": 2})
        status = horde.images.status(request_id, "http://h")
        assert (status["finished"], status["waiting"]) == (2, 1)
        links = [parts_of(found["img"]) for found in status["generations"]]

        asked = {"source_image": source, "forms": [{"name": "caption"}, {"name": "nsfw"}]}
        alchemy_id = horde.alchemy.submit(CLIENT, asked, "", "http://h")["id"]
        alchemist = {"name": "a", "forms": ["caption", "nsfw"]}
        [form] = horde.alchemy.pop(OWNER, alchemist, "", "http://h")["forms"]
        horde = start(1025.0)
        horde.alchemy.submit_result(OWNER, {"id": form["id"], "result": {"caption": EMOJI}})
        horde = start(1028.0)
        caption, nsfw = horde.alchemy.status(alchemy_id, "http://h")["forms"]
        assert (caption["result"], nsfw["state"]) == ({"caption": EMOJI}, "waiting")
        [form] = horde.alchemy.pop(OWNER, alchemist, "", "http://h")["forms"]
        assert horde.images.picture(*parts_of(form["source_image"]))[0] == "webp"

        horde = start(1030.0)
        assert {horde.images.picture(*link)[0] for link in links} == {"webp"}
        horde.images.cancel(request_id, "http://h")
        with pytest.raises(HordeError, match="gone"):
            horde.images.picture(*links[0])

    def test_nothing_is_lost_at_a_restart(self, start: Callable[[float], PrivateHorde]) -> None:
        horde = start(1000.0)
        horde.add_account(OWNER, "owner", trusted=True)
        horde.add_account(CLIENT, "client", kudos=100.0)
        body = {"prompt": EMOJI + HALF, "models": ["test"], "params": {"n": 3}}
        request_id = horde.submit(CLIENT, body)["id"]
        offer = {"name": "w", "models": ["test"]}
        done, lost = (horde.pop(OWNER, offer)["id"] for _ in range(2))
        horde.submit_generation(OWNER, {"id": done, "generation": f"one {HALF}", "seed": 10**30})
        kudos = [horde.people.find_user(key)["kudos"] for key in (OWNER, CLIENT)]

        horde = start(1100.0)
        assert [horde.people.find_user(key)["kudos"] for key in (OWNER, CLIENT)] == kudos
        status = horde.status(request_id)
        expected = {"finished": 1, "processing": 1, "waiting": 1, "queue_position": 1}
        assert {name: status[name] for name in expected} == expected
        assert status["is_possible"] is True
        assert status["generations"][0]["text"] == "one half ?"
        assert [found["requests_fulfilled"] for found in horde.fleet.workers()] == [1]
        assert horde.statistics.text_models()["total"] == {"test": 1}
        popped = horde.pop(OWNER, offer)
        assert popped["payload"]["prompt"] == EMOJI + "half ?"
        horde.submit_generation(OWNER, {"id": popped["id"], "generation": "two"})

        # A chat and what was written of it are there as well.
        chat = {"messages": [{"role": "user", "content": EMOJI + HALF}], "seed": 1}
        chat_id = horde.submit(CLIENT, {"chat": chat, "models": ["chats"]})["id"]
        chats = {"name": "c", "models": ["chats"], "extensions": ["chat"]}
        begun = horde.pop(OWNER, chats)["id"]
        text = line({"content": EMOJI})
        horde.streams.progress(OWNER, {"id": begun, "text": text})
        given_back = {"id": begun, "generation": "", "state": "faulted"}
        horde.submit_generation(OWNER, given_back)
        horde = start(1101.0)
        popped = horde.pop(OWNER, chats)
        assert popped["payload"]["chat"] == {
            "messages": [
                {"role": "user", "content": EMOJI + "half ?"},
                {"role": "assistant", "content": EMOJI},
            ],
            "seed": 1,
        }
        horde.submit_generation(OWNER, {"id": popped["id"], "generation": text})
        horde = start(1102.0)
        [found] = horde.status(chat_id)["generations"]
        assert found["text"] == EMOJI * 2
        assert found["chat"]["message"] == {"role": "assistant", "content": EMOJI * 2}
        [found] = [found for found in horde.fleet.workers() if found["name"] == "c"]
        assert found["extensions"] == ["chat"]

        # The job that was out when the process ended is popped again after its time.
        horde = start(1149.0)
        assert horde.pop(OWNER, offer)["id"] is None
        horde = start(1150.0)
        again = horde.pop(OWNER, offer)["id"]
        with pytest.raises(HordeError) as late:
            horde.submit_generation(OWNER, {"id": lost, "generation": "late"})
        assert late.value.rc == "AbortedGen"
        horde.submit_generation(OWNER, {"id": again, "generation": "three"})
        status = horde.status(request_id)
        assert [found["text"] for found in status["generations"]] == ["one half ?", "two", "three"]
        assert (status["done"], status["restarted"]) == (True, 1)

    def test_a_clock_that_went_back_at_a_restart_breaks_nothing(
        self, start: Callable[[float], PrivateHorde]
    ) -> None:
        horde = start(50_000.0)
        horde.add_account(OWNER, "owner")
        offer = {"name": "w", "models": ["test"]}
        body = {"prompt": "first", "models": ["test"], "params": {"n": 2}}
        horde.submit(OWNER, body)
        horde.pop(OWNER, offer)
        horde = start(1000.0)
        assert horde.fleet.workers() == []
        horde.submit(OWNER, {**body, "prompt": "second"})
        assert horde.pop(OWNER, offer)["payload"]["prompt"] == "first"
        horde = start(1150.0)
        prompts = [horde.pop(OWNER, offer)["payload"].get("prompt") for _ in range(4)]
        assert prompts == ["first", "first", "second", "second"]

    def test_two_processes_are_one_horde(self, start: Callable[[float], PrivateHorde]) -> None:
        one, two = start(1000.0), start(1000.0)
        one.add_account(OWNER, "owner")
        body = {"prompt": "x", "models": ["test"], "params": {"n": 2}}
        request_id = one.submit(OWNER, body)["id"]
        offer = {"name": "w", "models": ["test"]}
        jobs = [horde.pop(OWNER, offer)["id"] for horde in (two, one, two)]
        assert len(set(jobs[:2])) == 2
        assert jobs[2] is None
        two.submit_generation(OWNER, {"id": jobs[1], "generation": "by another process"})
        assert one.status(request_id)["finished"] == 1
        two.cancel(request_id)
        with pytest.raises(HordeError):
            one.status(request_id)

    def test_the_owner_is_found_again(self, start: Callable[[float], PrivateHorde]) -> None:
        def ensure(key: str, *, is_from_settings: bool) -> PrivateHorde:
            horde = start(1000.0)
            username = horde.ensure_owner(
                key, kudos=1000.0, concurrency=5, is_from_settings=is_from_settings
            )
            assert username == "owner#1"
            return horde

        def knows(horde: PrivateHorde, key: str) -> bool:
            try:
                return bool(horde.people.find_user(key)["trusted"])
            except HordeError:
                return False

        horde = ensure("made-1", is_from_settings=False)
        horde.submit("made-1", {"prompt": "x"})
        horde = ensure("made-2", is_from_settings=False)
        assert knows(horde, "made-1") and knows(horde, "made-2")
        assert horde.people.find_user("made-2")["kudos"] == 1000.0
        horde = ensure("set-1", is_from_settings=True)
        horde = ensure("set-2", is_from_settings=True)
        assert [knows(horde, key) for key in ("made-1", "set-1", "set-2")] == [True, False, True]
        horde.add_account("<another>", "another")
        with pytest.raises(ValueError, match="another account"):
            ensure("<another>", is_from_settings=True)


class TestSqliteRestart(RestartBehaviour):
    """What a new process finds in a file."""


def test_transactions_of_several_threads_are_committed_together(url: str) -> None:
    store = open_store(url)
    add(store, request("first"))
    in_turn, done = threading.Event(), []

    def work(number: int) -> None:
        with store.transaction() as tx:
            tx.add(request(f"r{number}"))
            in_turn.wait(60)
            if number % 3 == 0:
                raise KeyError
        done.append(number)

    with ThreadPoolExecutor(9) as pool:
        futures = [pool.submit(work, number) for number in range(9)]
        in_turn.set()
    assert sorted(done) == [1, 2, 4, 5, 7, 8]
    assert sum(isinstance(future.exception(), KeyError) for future in futures) == 3
    with store.snapshot() as tx:
        stored = {found.id for found in tx.open_requests()}
    assert stored == {"first", "r1", "r2", "r4", "r5", "r7", "r8"}
    store.close()


def test_threads_get_a_place_in_the_order_in_which_they_came() -> None:
    line, order = Line(1), []

    def work(number: int) -> None:
        with line:
            order.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    with line:
        for count_before, thread in enumerate(threads):
            thread.start()
            while len(line._waiting) == count_before:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]
    with line:
        order.append(5)
    assert order[-1] == 5


class SlowServer:
    """A server whose flushes, one at a time, end when the test says so."""

    def __init__(self) -> None:
        self.begun, self._ends = count(1), threading.Semaphore(0)
        self.flushes = 0
        self.failure: Exception | None = None

    @contextmanager
    def failures(self) -> Iterator[None]:
        yield

    @contextmanager
    def lend(self) -> Iterator[SlowServer]:
        yield self

    def rows(self, sql: str, values: Any) -> None:
        self.flushes = next(self.begun)
        assert self._ends.acquire(timeout=60)
        if self.failure is not None:
            raise self.failure

    def end_flush(self) -> None:
        self._ends.release()


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


def waiting_flushes(durability: Durability) -> int:
    return len(durability._changed._waiters)  # type: ignore[attr-defined]


def test_a_flush_covers_those_who_came_before_it_began_and_no_others() -> None:
    server = SlowServer()
    durability = Durability(cast(Connections, server))
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(durability.flush)
        wait_until(lambda: server.flushes == 1)
        # They have committed while the first one was running, which may not have seen that.
        later = [pool.submit(durability.flush) for _ in range(3)]
        wait_until(lambda: waiting_flushes(durability) == 3)
        server.end_flush()
        first.result(60)
        wait_until(lambda: server.flushes == 2)
        assert not any(future.done() for future in later)
        server.end_flush()
        for future in later:
            future.result(60)
    assert server.flushes == 2


def test_a_flush_that_fails_is_an_error_of_all_who_wait_for_it() -> None:
    server = SlowServer()
    durability = Durability(cast(Connections, server))
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(durability.flush)
        wait_until(lambda: server.flushes == 1)
        later = [pool.submit(durability.flush) for _ in range(2)]
        wait_until(lambda: waiting_flushes(durability) == 2)
        server.end_flush()
        first.result(60)
        server.failure = DatabaseError("the server is gone")
        server.end_flush()
        assert [str(future.exception(60)) for future in later] == ["the server is gone"] * 2
    server.failure = None
    server.end_flush()
    durability.flush()


def test_values_go_to_postgresql_with_their_types() -> None:
    values = [None, "ü\0", True, 5, 5.0, 0.1]
    assert [encoded(value) for value in values] == [
        None,
        "ü\ufffd".encode(),
        b"True",
        b"5",
        b"5.0",
        b"0.1",
    ]
    assert [type_of(value) for value in values] == [0, 0, 16, 20, 701, 701]


def test_parameters_are_numbered_by_their_names() -> None:
    sql = "SELECT CAST(:b AS x), a::text FROM t WHERE a = :a AND c = :b"
    assert numbered(sql) == (
        "SELECT CAST($1 AS x), a::text FROM t WHERE a = $2 AND c = $1",
        ("b", "a"),
    )


def test_a_file_that_is_locked_too_long_is_an_error_and_works_again(
    url: str, tmp_path: Path
) -> None:
    store = open_store(url)
    add(store, request("first"))
    other = sqlite3.connect(tmp_path / "horde.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store._driver().connection.execute("PRAGMA busy_timeout=1")  # type: ignore[attr-defined]
    with pytest.raises(DatabaseError, match="locked"):
        add(store, request("refused"))
    other.execute("ROLLBACK")
    other.close()
    add(store, request("second"))
    with store.snapshot() as tx:
        assert {found.id for found in tx.open_requests()} == {"first", "second"}
    store.close()


def test_a_store_in_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = open_store(f"sqlite:///{tmp_path}/file/horde.db")
    with pytest.raises(DatabaseError, match=r"private_horde\.database"), store.snapshot():
        pass
