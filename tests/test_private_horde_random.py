"""The private horde under random use: what must hold whatever clients, workers and the clock do."""

from __future__ import annotations

from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from horde_proxy.aihorde.transcript import line
from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.errors import HordeError
from horde_proxy.private_horde.records import (
    HordeAccount,
    HordeRequest,
    HordeSharedKey,
    Job,
    LedgerEntry,
    Payload,
    StoredGeneration,
)
from horde_proxy.private_horde.store.base import Store
from horde_proxy.private_horde.store.memory import MemoryStore
from horde_proxy.private_horde.store.opening import open_store

ANONYMOUS = "0000000000"
KEYS = ("<owner-apikey>", "<other-apikey>")
SHARED = "the shared key"
MODELS = ("one", "two", "three")
LINES = [
    line({"reasoning_content": "Hm."}),
    line({"content": "One"}),
    line({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}),
]
EXPIRY = 1200.0
TTL = 150.0
CHAT = {"messages": [{"role": "user", "content": "x"}], "seed": 1}


class HordeContext(RuleBasedStateMachine):
    """Clients and workers of a horde, and what they know of it."""

    requests = Bundle("requests")
    jobs = Bundle("jobs")

    def new_store(self) -> Store:
        """An empty store."""
        return MemoryStore()

    def __init__(self) -> None:
        super().__init__()
        self.now = 5000.0
        numbers = count()
        self.store = self.new_store()
        self.horde = PrivateHorde(
            store=self.store,
            clock=lambda: self.now,
            new_id=lambda: f"00000000-0000-4000-8000-{next(numbers):012x}",
            job_ttl=TTL,
            expiry=EXPIRY,
            upfront_kudos=True,
        )
        for number, key in enumerate(KEYS):
            self.horde.add_account(key, "user", kudos=100.0 * number, trusted=bool(number))
        # Of the second account. 60 kudos are spent soon.
        self.shared_key = self.horde.people.make_shared_key(KEYS[1], {"kudos": 60})["id"]
        self.by_shared_key: set[str] = set()
        self.results: dict[str, int] = {}
        self.wishes: dict[str, tuple[str, set[str], bool]] = {}
        self.chats: set[str] = set()
        self.last_active: dict[str, float] = {}
        self.cancelled: set[str] = set()
        self.popped: dict[str, tuple[str, float, str]] = {}
        self.handed_in: set[str] = set()
        self.written: set[str] = set()

    @rule(
        target=requests,
        key=st.sampled_from((ANONYMOUS, *KEYS, SHARED)),
        models=st.lists(st.sampled_from(MODELS), max_size=2),
        n=st.integers(1, 4),
        max_length=st.sampled_from((16, 80, 600)),
        validated=st.booleans(),
        words=st.sampled_from(({"prompt": "x"}, {"prompt": "x"}, {"chat": CHAT})),
    )
    def submit(
        self,
        key: str,
        models: list[str],
        n: int,
        max_length: int,
        validated: bool,
        words: dict[str, Any],
    ) -> Any:
        params = {"n": n, "max_length": max_length}
        body = {**words, "models": models, "params": params, "validated_backends": validated}
        try:
            sent = self.shared_key if key == SHARED else key
            request_id = self.horde.submit(sent, body)["id"]
        except HordeError as refusal:
            expected = {"TooManyPrompts", "KudosUpfront"}
            if key == SHARED:
                expected |= {"SharedKeyEmpty", "SharedKeyInsufficientKudos"}
            assert refusal.rc in expected
            return multiple()
        if key == SHARED:
            self.by_shared_key.add(request_id)
            key = KEYS[1]
        if "chat" in words:
            self.chats.add(request_id)
        self.results[request_id] = n
        self.wishes[request_id] = (key, set(models), validated)
        self.last_active[request_id] = self.now
        return request_id

    @rule(
        target=jobs,
        key=st.sampled_from(KEYS),
        models=st.lists(st.sampled_from(MODELS), min_size=1, max_size=3),
        amount=st.integers(1, 3),
        known=st.booleans(),
        extensions=st.sampled_from(([], ["chat"])),
    )
    def pop(
        self, key: str, models: list[str], amount: int, known: bool, extensions: list[str]
    ) -> Any:
        offer = {"name": f"worker of {key}", "models": models, "amount": amount}
        offer["bridge_agent"] = "TabbyAPI:1:x" if known else "Other:1:x"
        offer["extensions"] = extensions
        expected = self.expected_request(key, models, known, bool(extensions))
        popped = self.horde.pop(key, {**offer, "max_length": 1024})
        if popped["id"] is None:
            assert expected is None
            return multiple()
        (request_id,) = {self.request_of(job_id) for job_id in popped["ids"]}
        assert request_id == expected
        assert request_id not in self.cancelled
        # Each of several results of a chat has a seed of its own, after the client's.
        seed = popped["payload"].get("chat", {}).get("seed")
        assert 1 <= seed <= 20 if request_id in self.chats else seed is None
        self.last_active[request_id] = self.now
        for job_id in popped["ids"]:
            assert job_id not in self.popped
            self.popped[job_id] = (key, self.now, request_id)
        return multiple(*popped["ids"])

    def expected_request(self, key: str, models: list[str], known: bool, chats: bool) -> str | None:
        """The first in the queue that fits; those of the worker's owner come first."""
        statuses = {request_id: self.status(request_id) for request_id in self.results}
        order = [
            (owner != key, status["queue_position"], request_id)
            for request_id, (owner, wanted, validated) in self.wishes.items()
            if (status := statuses[request_id]) is not None
            and status["queue_position"]
            and (not wanted or wanted & set(models))
            and (known or not validated)
            and (chats or request_id not in self.chats)
        ]
        return min(order)[2] if order else None

    @rule(job_id=jobs, state=st.sampled_from(("ok", "ok", "censored", "faulted")))
    def hand_in(self, job_id: str, state: str) -> None:
        key, popped, request_id = self.popped[job_id]
        late = self.now >= self.deadline(job_id, popped + TTL) or job_id in self.handed_in
        is_chat = request_id in self.chats
        text = line({"content": job_id}) if is_chat and state == "ok" else job_id
        result = {"id": job_id, "generation": text, "state": state}
        if late:
            with pytest.raises(HordeError) as refusal:
                self.horde.submit_generation(key, result)
            assert refusal.value.rc in ("DuplicateGen", "AbortedGen", "InvalidJobID")
            return
        reward = self.horde.submit_generation(key, result)["reward"]
        assert (reward == 0.0) == (state == "faulted")
        self.handed_in.add(job_id)
        if state != "faulted":
            self.last_active[request_id] = self.now

    def deadline(self, job_id: str, usual: float) -> float:
        """When a job is taken away: 20 s after its last progress that was saved, if it had any."""
        if job_id not in self.written:
            return usual
        with self.store.snapshot() as tx:
            job = tx.get(Job, job_id)
        return 0.0 if job is None or job.deadline is None else job.deadline

    @rule(job_id=jobs, size=st.integers(0, 3))
    def write(self, job_id: str, size: int) -> None:
        """Progress of a job: so much of its text. That of a chat ends with a tool call."""
        key, _, request_id = self.popped[job_id]
        text = "".join(LINES[:size]) if request_id in self.chats else "a" * size
        try:
            self.horde.streams.progress(key, {"id": job_id, "text": text})
        except HordeError as refusal:
            assert refusal.rc == "InvalidJobID"
        self.written.add(job_id)

    @rule(request_id=requests)
    def cancel(self, request_id: str) -> None:
        try:
            self.horde.cancel(request_id)
        except HordeError as refusal:
            assert refusal.rc == "RequestNotFound"
        self.cancelled.add(request_id)

    @rule(
        key=st.sampled_from((ANONYMOUS, *KEYS, SHARED)),
        to=st.sampled_from(("user#1", "user#2", "Anonymous#0", SHARED)),
        amount=st.sampled_from((-1, 0, 0.5, 1, 30, 10**6)),
    )
    def transfer(self, key: str, to: str, amount: float) -> None:
        names = {SHARED: self.shared_key}
        before = self.total_kudos()
        body = {"username": names.get(to, to), "amount": amount}
        try:
            self.horde.people.transfer(names.get(key, key), body)
        except HordeError as refusal:
            assert refusal.rc == "InvalidAPIKey" if key == SHARED else refusal.status == 400
        assert round(self.total_kudos() - before, 6) == 0.0

    def total_kudos(self) -> float:
        self.horde.people.users()
        with self.store.snapshot() as tx:
            accounts = tx.page(HordeAccount, "id", descending=False, offset=0, limit=99)
            return sum(account.kudos for account in accounts)

    @rule(seconds=st.sampled_from((0.5, 10.0, 149.0, 151.0, 400.0, 1199.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def requests_live_until_they_expire_or_are_cancelled(self) -> None:
        for request_id, last_active in self.last_active.items():
            alive = request_id not in self.cancelled and self.now < last_active + EXPIRY
            assert (self.status(request_id) is not None) == alive

    @invariant()
    def every_result_asked_for_is_somewhere_once(self) -> None:
        for request_id, n in self.results.items():
            status = self.status(request_id)
            if status is not None:
                assert status["finished"] + status["processing"] + status["waiting"] == n
                texts = [generation["text"] for generation in status["generations"]]
                assert len(texts) == len(set(texts)) == status["finished"]
                assert status["faulted"] == (status["restarted"] >= 3)

    @invariant()
    def positions_are_a_permutation(self) -> None:
        statuses = [status for status in map(self.status, self.results) if status is not None]
        waiting = [s for s in statuses if s["waiting"] and not s["faulted"]]
        positions = sorted(status["queue_position"] for status in waiting)
        assert positions == list(range(1, len(waiting) + 1))
        assert all(s["queue_position"] == 0 for s in statuses if s["faulted"] or not s["waiting"])

    @invariant()
    def open_requests_are_those_that_are_not_over(self) -> None:
        statuses = {request_id: self.status(request_id) for request_id in self.results}
        over = {"faulted": True}
        expected = [
            request_id
            for request_id, status in statuses.items()
            if not (status or over)["faulted"] and status["finished"] < self.results[request_id]
        ]
        assert [request.id for request in self.horde.open_requests()] == expected

    def status(self, request_id: str) -> Any:
        try:
            return self.horde.status(request_id)
        except HordeError as refusal:
            assert refusal.rc == "RequestNotFound"
            return None

    def request_of(self, job_id: str) -> str:
        with self.horde.store.snapshot() as tx:
            job = tx.get(Job, job_id)
            assert job is not None
            return job.request_id

    def teardown(self) -> None:
        self.now += 2 * EXPIRY
        assert self.horde.open_requests() == []
        with self.horde.store.snapshot() as tx:
            for request_id in self.results:
                assert tx.get(HordeRequest, request_id) is None
                assert tx.get(Payload, request_id) is None
                assert tx.find(Job, request_id=request_id) == []
                assert tx.find(StoredGeneration, request_id=request_id) == []
            assert list(tx.waiting(MODELS)) == []
            for account_id in range(len(KEYS) + 1):
                account = tx.get(HordeAccount, account_id)
                assert account is not None
                assert round(account.held, 6) == 0.0
                entries = tx.find(LedgerEntry, account_id=account_id)
                assert round(sum(entry.amount for entry in entries) - account.kudos, 6) == 0.0
                assert account.kudos >= account.floor
            key = tx.get(HordeSharedKey, self.shared_key)
            assert key is not None
            assert round(key.held, 6) == 0.0
            entries = tx.find(LedgerEntry, account_id=2)
            paid = [
                -entry.amount
                for entry in entries
                if entry.request_id in self.by_shared_key and entry.reason in ("tax", "job")
            ]
            assert round(sum(paid) - key.utilized, 6) == 0.0
            assert key.requests == len(self.by_shared_key)
        self.store.close()


class SqliteContext(HordeContext):
    """The same with a file, a copy of an empty one: to make its tables takes long."""

    def new_store(self) -> Store:
        self.folder = TemporaryDirectory()
        path = Path(self.folder.name) / "horde.db"
        path.write_bytes(empty_file())
        return open_store(f"sqlite:///{path}")

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


@cache
def empty_file() -> bytes:
    """A database with the horde's tables."""
    with TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{folder}/horde.db")
        with store.snapshot() as tx:
            assert tx.open_requests() == []
        store.close()
        return (Path(folder) / "horde.db").read_bytes()


HordeContext.TestCase.settings = settings(stateful_step_count=40)
TestPrivateHordeUnderRandomUse = HordeContext.TestCase
SqliteContext.TestCase.settings = settings(
    # A quarter of the examples of the profile, because each step writes to the disk.
    max_examples=max(settings().max_examples // 4, 1),
    stateful_step_count=20,
)
TestSqliteHordeUnderRandomUse = SqliteContext.TestCase
