"""Random use by several people of two servers on one PostgreSQL, while things are killed.

Clients submit, cancel and send kudos, workers deliver and fault; a server is killed, PostgreSQL is
restarted. At the end nothing that was accepted is lost, no job was given twice, and the ledger sums
up to the balances.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
import requests

from tests.live.postgresql import Postgresql, needs_postgresql
from tests.live.processes import KEY, Processes, until
from tests.live.test_private_horde_processes import MODEL, Servers

psycopg = pytest.importorskip("psycopg")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), needs_postgresql]
NAMES = ("ann", "bob", "cid")
GIFT = 3
GIFTS = 8


class People:
    """Accounts, and calls of them. A call is repeated until a server answers it."""

    def __init__(self, servers: Servers, seed: int) -> None:
        self._servers, self.random = servers, random.Random(seed)
        self.keys = {"owner": KEY}
        # The owner is an administrator, who may invite.
        invitation = self.call("owner", "POST", "invitations", {"uses": 3})[1]["invitation"]
        for name in NAMES:
            body = {"username": name, "invitation": invitation}
            self.keys[name] = self.call("nobody", "POST", "register", body)[1]["api_key"]
        self.names = {
            name: self.call(name, "GET", "find_user")[1]["username"] for name in self.keys
        }
        for name in NAMES:
            self.call("owner", "POST", "kudos/transfer", self.gift(name, 1000))

    def gift(self, name: str, amount: int) -> dict[str, Any]:
        return {"username": self.names[name], "amount": amount}

    def call(
        self, name: str, method: str, path: str, body: Any = None, token: str = ""
    ) -> tuple[int, Any]:
        """(status, JSON) of a call by somebody, from any server that answers."""
        headers = {"apikey": self.keys.get(name, "0000000000"), "Idempotency-Key": token}
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            url = f"{self.random.choice(self._servers.urls)}/api/v2/{path}"
            try:
                answer = requests.request(method, url, json=body, headers=headers, timeout=60)
                if answer.status_code != 503:
                    return answer.status_code, answer.json()
            except requests.RequestException:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{method} {path} was not answered")


class Clients:
    """People who submit, cancel and send kudos at random. Each prompt is used once."""

    def __init__(self, people: People) -> None:
        self._people = people
        self.accepted: dict[str, int] = {}
        self.cancelled: set[str] = set()
        self._prompts = 0

    def act(self) -> None:
        random = self._people.random
        name, n = random.choice(NAMES), random.randint(1, 3)
        self._prompts += 1
        params = {"n": n, "max_length": 16}
        body = {"prompt": f"prompt {self._prompts}", "models": [MODEL], "params": params}
        status, answer = self._people.call(name, "POST", "generate/text/async", body)
        assert status == 202, answer
        if random.random() < 0.2:
            path = f"generate/text/status/{answer['id']}"
            # A repeated cancel may find that the first, whose answer was lost, worked.
            assert self._people.call(name, "DELETE", path)[0] in (200, 404)
            self.cancelled.add(answer["id"])
        else:
            self.accepted[answer["id"]] = n

    def texts(self) -> list[str] | None:
        """All results, once each request has all of its own."""
        texts: list[str] = []
        for request_id, n in self.accepted.items():
            path = f"generate/text/status/{request_id}"
            status, answer = self._people.call("ann", "GET", path)
            assert (status, answer.get("faulted")) == (200, False), answer
            if not answer["done"] or len(answer["generations"]) < n:
                return None
            texts += [generation["text"] for generation in answer["generations"]]
        return texts


class Workers:
    """Threads that pop and deliver; the text is the job's id. Some jobs are faulted once."""

    def __init__(self, people: People) -> None:
        self._people = people
        self._is_over = threading.Event()
        self.popped: list[str] = []
        self.faulted: set[str] = set()
        self._threads = [
            threading.Thread(target=self._work, args=(NAMES[number % 3], f"worker-{number}"))
            for number in range(6)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, name: str, worker: str) -> None:
        offer = {"name": worker, "models": [MODEL], "amount": 2}
        while not self._is_over.wait(0.05):
            status, job = self._people.call(name, "POST", "generate/text/pop", offer)
            assert status == 200, job
            prompt = job["payload"].get("prompt", "")
            for job_id in job["ids"]:
                self.popped.append(job_id)
                is_fault = prompt.endswith("7") and prompt not in self.faulted
                self.faulted.update([prompt] if is_fault else [])
                self._deliver(name, job_id, is_fault)

    def _deliver(self, name: str, job_id: str, is_fault: bool) -> None:
        result = {
            "id": job_id,
            "generation": job_id,
            "state": "faulted" if is_fault else "ok",
        }
        status, answer = self._people.call(name, "POST", "generate/text/submit", result)
        # A server that is killed may have taken the result without an answer.
        assert status == 200 or answer["rc"] in ("DuplicateGen", "AbortedGen", "InvalidJobID")

    def end(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


def send_gifts(people: People) -> None:
    """Each gift once: the same Idempotency-Key is sent until an answer comes."""
    for number in range(GIFTS):
        body = people.gift("bob", GIFT)
        status, answer = people.call("ann", "POST", "kudos/transfer", body, token=f"gift-{number}")
        assert status == 200, answer
        time.sleep(1.1)


def check_ledger(database: str) -> None:
    """Each balance is the sum of its entries, and nothing came from nowhere."""
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT a.alias, a.kudos, COALESCE(SUM(l.amount), 0) FROM horde_accounts a "
            "LEFT JOIN horde_kudos_ledger l ON l.account_id = a.id GROUP BY a.id, a.alias, a.kudos"
        ).fetchall()
        [(gifts,)] = connection.execute(
            "SELECT COUNT(*) FROM horde_kudos_transfers WHERE amount = %s", [GIFT]
        ).fetchall()
        moved = connection.execute(
            "SELECT SUM(amount) FROM horde_kudos_ledger WHERE reason IN ('gift', 'received')"
        ).fetchone()
        twice = connection.execute(
            "SELECT job_id FROM horde_kudos_ledger WHERE reason = 'reward' "
            "GROUP BY job_id HAVING COUNT(*) > 1"
        ).fetchall()
    assert {"owner", *NAMES} <= {alias for alias, _, _ in rows}
    for alias, balance, entries in rows:
        assert balance == pytest.approx(entries), alias
    assert (gifts, moved, twice) == (GIFTS, (pytest.approx(0),), [])


@pytest.mark.parametrize("seed", [1])
def test_random_use_of_two_servers_that_are_killed_loses_and_doubles_nothing(
    processes: Processes, postgresql: Postgresql, seed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    database = postgresql.new_database()
    servers = Servers(processes, database)
    people = People(servers, seed)
    clients, workers = Clients(people), Workers(people)

    def kill_first() -> None:
        servers.kill(0)
        servers.start(0)

    def restart_postgresql() -> None:
        postgresql.stop()
        postgresql.start()

    def kill_second() -> None:
        servers.kill(1)
        servers.start(1)

    gifts = threading.Thread(target=send_gifts, args=(people,))
    gifts.start()
    try:
        for trouble in (kill_first, restart_postgresql, kill_second):
            for _ in range(15):
                clients.act()
            trouble()
        for _ in range(15):
            clients.act()
        gifts.join()
        # A job whose pop was not answered any more is popped again after its 150 s.
        texts = until(clients.texts, 300)
    finally:
        workers.end()
    assert len(texts) == len(set(texts)) == sum(clients.accepted.values())
    assert set(texts) <= set(workers.popped)
    assert len(workers.popped) == len(set(workers.popped))
    check_ledger(database)
    # A restart of PostgreSQL is a warning of one line, and no fault of ours.
    assert "Traceback" not in capfd.readouterr().err
