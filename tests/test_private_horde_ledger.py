"""Old movements of kudos become sums: balances stay, and the ledger does not grow for ever."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.ledger_folding import _BATCH
from horde_proxy.private_horde.records import NEW, HordeAccount, HordeSetting, LedgerEntry
from horde_proxy.private_horde.store.base import Store
from horde_proxy.private_horde.store.memory import MemoryStore
from horde_proxy.private_horde.store.opening import open_store
from tests.test_private_horde import ALICE, BOB, World

DAY = 86_400.0
DAYS = 10


class Horde:
    """A horde in a store that keeps movements for ten days."""

    def __init__(self, store: Store, days: float = DAYS) -> None:
        self.now = 1_000 * DAY
        self.store = store
        self.horde = PrivateHorde(store=store, clock=lambda: self.now, ledger_days=days)
        # The first call makes the anonymous account, with an entry.
        self.horde.statistics.performance()

    def write(self, *movements: tuple[int, str, float]) -> None:
        """Entries of now: (account, reason, amount)."""
        with self.store.transaction() as tx:
            for account_id, reason, amount in movements:
                tx.add(LedgerEntry(NEW, account_id, self.now, amount, reason, "r", "j", 7))

    def live(self, days: float) -> None:
        """Let time pass, with a call every half day, as a horde has them."""
        for _ in range(round(days * 2)):
            self.now += DAY / 2
            self.horde.statistics.performance()

    def finish(self) -> None:
        """Calls until nothing old is left: of a large backlog, each call folds a part."""
        for _ in range(30):
            self.now += 1
            self.horde.statistics.performance()

    def entries(self) -> list[LedgerEntry]:
        with self.store.snapshot() as tx:
            return tx.page(LedgerEntry, "id", descending=False, offset=0, limit=10_000)

    def sums(self) -> dict[tuple[int, str], float]:
        sums: dict[tuple[int, str], float] = defaultdict(float)
        for entry in self.entries():
            sums[entry.account_id, entry.reason] += entry.amount
        return {group: round(total, 6) for group, total in sums.items()}


@pytest.fixture(params=["memory", "sqlite"])
def horde(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Horde]:
    url = f"sqlite:///{tmp_path}/horde.db"
    store = MemoryStore() if request.param == "memory" else open_store(url)
    yield Horde(store)
    store.close()


def shown(entry: LedgerEntry) -> tuple[int, str, float]:
    return entry.account_id, entry.reason, entry.amount


def test_old_movements_become_one_sum_for_each_account_and_reason(horde: Horde) -> None:
    horde.write((1, "job", -2.0), (1, "tax", -1.0), (2, "job", -4.0), (1, "job", -3.5))
    horde.live(DAYS - 1)
    horde.write((1, "job", -8.0))
    assert len(horde.entries()) == 6
    horde.live(2)
    opening, *entries = horde.entries()
    assert shown(opening) == (0, "opening", -50.0)
    assert [shown(entry) for entry in entries] == [
        (1, "job", -5.5),
        (1, "tax", -1.0),
        (2, "job", -4.0),
        (1, "job", -8.0),
    ]
    sums, last = entries[:3], entries[3]
    assert {(entry.request_id, entry.job_id, entry.partner_id) for entry in sums} == {
        (None, None, None)
    }
    assert (last.request_id, last.job_id, last.partner_id) == ("r", "j", 7)
    horde.live(DAYS)
    assert [shown(entry) for entry in horde.entries()[1:]] == [
        (1, "job", -13.5),
        (1, "tax", -1.0),
        (2, "job", -4.0),
    ]


def test_the_sums_are_found_again_after_a_restart(horde: Horde) -> None:
    horde.write((1, "job", -2.0), (1, "job", -3.0))
    horde.live(DAYS + 1)
    again = Horde(horde.store)
    again.now = horde.now
    again.write((1, "job", -4.0))
    again.live(DAYS + 1)
    assert [shown(entry) for entry in again.entries()[1:]] == [(1, "job", -9.0)]


def test_two_processes_fold_no_entry_twice(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/horde.db"
    one, two = Horde(open_store(url)), Horde(open_store(url))
    for step in range(60):
        one.write((1, "job", -1.0), (step % 2, "tax", -0.1))
        for horde in (one, two):
            horde.now = 1_000 * DAY + step * DAY / 2
            horde.horde.statistics.performance()
    assert one.sums() == {(0, "opening"): -50.0, (1, "job"): -60, (0, "tax"): -3, (1, "tax"): -3}
    assert len(one.entries()) < 60
    one.store.close()
    two.store.close()


def test_a_large_backlog_is_folded_in_small_parts(horde: Horde) -> None:
    amounts = [float(number) for number in range(_BATCH * 3 + 7)]
    horde.write(*((1, "reward", amount) for amount in amounts))
    horde.now += (DAYS + 1) * DAY
    horde.horde.statistics.performance()
    # The first batch has the opening of the anonymous account, too.
    assert len(horde.entries()) == 1 + len(amounts) + 1 - _BATCH + 1
    horde.finish()
    assert [shown(entry) for entry in horde.entries()] == [
        (0, "opening", -50.0),
        (1, "reward", sum(amounts)),
    ]


def test_a_clock_that_was_put_back_folds_nothing_early(horde: Horde) -> None:
    horde.write((1, "job", -2.0), (1, "job", -3.0))
    horde.now -= 500 * DAY
    horde.live(3)
    assert len(horde.entries()) == 3


def test_all_movements_are_kept_without_a_limit() -> None:
    horde = Horde(MemoryStore(), days=0)
    horde.write((1, "job", -2.0), (1, "job", -3.0))
    horde.live(900)
    assert len(horde.entries()) == 3
    with horde.store.snapshot() as tx:
        assert tx.get(HordeSetting, "ledger_through") is None


def test_what_fails_in_the_middle_leaves_the_ledger_as_it_was(
    horde: Horde, monkeypatch: pytest.MonkeyPatch
) -> None:
    horde.write((1, "job", -2.0), (1, "job", -3.0))
    horde.live(DAYS - 1)

    def fail(*_: Any) -> None:
        raise RuntimeError("the power is cut")

    with monkeypatch.context() as patch:
        patch.setattr("horde_proxy.private_horde.ledger_folding.LedgerFolding._add_up", fail)
        with pytest.raises(RuntimeError, match="the power is cut"):
            horde.live(2)
    assert len(horde.entries()) == 3
    horde.live(2)
    assert [shown(entry) for entry in horde.entries()[1:]] == [(1, "job", -5.0)]


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.sampled_from(["job", "tax", "reward", "grant"]),
            st.floats(-1e6, 1e6),
            st.sampled_from([0.0, 0.5, 4.0, 12.0]),
        ),
        max_size=60,
    )
)
def test_sums_stay_whatever_is_written_and_whenever(
    movements: list[tuple[int, str, float, float]],
) -> None:
    horde = Horde(MemoryStore())
    written: dict[tuple[int, str], float] = defaultdict(float)
    for account_id, reason, amount, days in movements:
        horde.write((account_id, reason, amount))
        written[account_id, reason] += amount
        horde.live(days)
        sums = horde.sums()
        assert {group: pytest.approx(written[group], abs=1e-5) for group in written} == {
            group: sums[group] for group in written
        }
    horde.live(DAYS + 2)
    assert len(horde.entries()) == len(written) + 1


def test_the_ledger_of_a_used_horde_still_sums_up_to_its_balances() -> None:
    world = World(ledger_days=1)
    for _ in range(20):
        world.submit(ALICE)
        world.submit(BOB)
        world.deliver(*world.pop(), *world.pop())
        world.now += DAY / 3
    with world.horde.store.snapshot() as tx:
        entries = tx.page(LedgerEntry, "id", descending=False, offset=0, limit=1000)
        balances = {number: tx.get(HordeAccount, number) for number in range(5)}
    sums: dict[int, float] = defaultdict(float)
    for entry in entries:
        sums[entry.account_id] += entry.amount
    for number, account in balances.items():
        assert account is not None
        assert sums[number] == pytest.approx(account.kudos)
    assert len(entries) < 45
    history = world.horde.people.kudos_history(ALICE)
    assert (history[0]["reason"], history[-1]["reason"]) == ("job", "opening")
