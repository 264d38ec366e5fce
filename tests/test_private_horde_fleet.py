"""Workers of the private horde: what owners change, what the horde notices, what uptime earns."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.private_horde.records import HordeAccount, LedgerEntry, Worker
from tests.test_private_horde import ALICE, BOB, OWNER, World, refused


@pytest.fixture
def world() -> World:
    return World()


def change(world: World, key: str = OWNER, **fields: Any) -> Any:
    worker_id = world.worker()["id"]
    path = f"/api/v2/workers/{worker_id}"
    return world.client.put(path, json=fields, headers={"apikey": key})


def record(world: World, name: str = "manual-text-1") -> Worker:
    with world.horde.store.snapshot() as tx:
        [worker] = tx.find(Worker, name=name)
        return worker


def ledger(world: World, account_id: int) -> list[LedgerEntry]:
    with world.horde.store.snapshot() as tx:
        return tx.find(LedgerEntry, account_id=account_id)


def account(world: World, account_id: int) -> HordeAccount:
    with world.horde.store.snapshot() as tx:
        found = tx.get(HordeAccount, account_id)
    assert found is not None
    return found


def test_a_worker_in_maintenance_is_told_its_owners_words(world: World) -> None:
    world.pop()
    change(world, maintenance=True, maintenance_msg="new graphics card")
    response = world.try_pop()
    assert refused(response) == (403, "WorkerMaintenance")
    assert response.get_json()["message"] == "new graphics card"


def test_a_renamed_worker_pops_under_its_new_name(world: World) -> None:
    world.pop()
    worker_id = world.worker()["id"]
    change(world, name="attic")
    world.submit()
    assert len(world.pop("attic")) == 1
    assert world.worker("attic")["id"] == worker_id


def test_a_deleted_worker_is_gone_and_may_come_again(world: World) -> None:
    world.pop()
    worker_id = world.worker()["id"]
    path = f"/api/v2/workers/{worker_id}"
    answer = world.client.delete(path, headers={"apikey": OWNER})
    assert answer.get_json() == {"deleted_id": worker_id, "deleted_name": "manual-text-1"}
    assert refused(world.client.get(path)) == (404, "WorkerNotFound")
    assert world.get("workers").get_json() == []
    world.pop()
    assert world.worker()["id"] != worker_id


def test_a_worker_with_a_delivered_job_may_be_deleted(world: World) -> None:
    request_id = world.submit()
    world.deliver(*world.pop())
    path = f"/api/v2/workers/{world.worker()['id']}"
    assert world.client.delete(path, headers={"apikey": OWNER}).status_code == 200
    [generation] = world.status(request_id)["generations"]
    assert generation["worker_name"] == "manual-text-1"


def test_a_prompt_with_a_word_of_the_blacklist_goes_to_another_worker(world: World) -> None:
    world.submit(prompt="A poem about Spiders.")
    response = world.try_pop(blacklist=["spider", " "])
    assert response.get_json()["ids"] == []
    assert response.get_json()["skipped"] == {"blacklist": 1}
    assert len(world.pop("other")) == 1


def test_a_pop_counts_why_requests_did_not_fit(world: World) -> None:
    world.pop()
    other = world.worker()["id"]
    world.submit(workers=[other])
    world.submit(workers=[other])
    world.submit(slow_workers=False)
    skipped = world.try_pop("new").get_json()["skipped"]
    assert skipped == {"worker_id": 2, "performance": 1}


def test_an_untrusted_worker_counts_the_requests_for_trusted_ones(world: World) -> None:
    world.submit(trusted_workers=True)
    assert world.try_pop("new", BOB).get_json()["skipped"] == {"untrusted": 1}


def test_a_worker_that_drops_21_jobs_within_an_hour_goes_into_maintenance(world: World) -> None:
    for number in range(21):
        request_id = world.submit()
        [job] = world.pop()
        world.now += 60
        assert world.worker()["maintenance_mode"] is False, number
        world.try_deliver(job, state="faulted")
        world.cancel(request_id)
    assert world.worker()["maintenance_mode"] is True
    message = world.try_pop().get_json()["message"]
    assert message.startswith("This worker has dropped more than 20 jobs within an hour")


def test_jobs_dropped_over_a_longer_time_do_no_harm(world: World) -> None:
    for _ in range(30):
        request_id = world.submit()
        [job] = world.pop()
        world.now += 140
        world.try_deliver(job, state="faulted")
        world.cancel(request_id)
        world.now += 100
    assert world.worker()["maintenance_mode"] is False


def test_an_unbelievable_speed_of_an_untrusted_worker_is_noted(world: World) -> None:
    for name, key in (("doubtful", BOB), ("manual-text-1", OWNER)):
        world.submit(max_length=512)
        [job] = world.pop(name, key)
        world.now += 1
        world.deliver(job, "word " * 400, key)
    assert record(world, "doubtful").suspicions == ("It delivered 500 tokens per second.",)
    assert record(world).suspicions == ()
    assert "suspicious" not in world.worker("doubtful")


def stay_online(world: World, seconds: int, key: str = OWNER) -> None:
    for _ in range(seconds // 100):
        world.now += 100
        world.pop(key=key)


def test_ten_minutes_online_earn_kudos(world: World) -> None:
    world.pop()
    stay_online(world, 500)
    assert world.worker()["kudos_details"]["uptime"] is None
    stay_online(world, 100)
    # (25 + 15 * 4) * 8 / 7: a context of 4096 tokens, and a model of 8 billion parameters.
    assert world.worker()["kudos_details"] == {"generated": None, "uptime": 97.14}
    assert [entry.amount for entry in ledger(world, 1) if entry.reason == "uptime"] == [97.14]
    stay_online(world, 600)
    assert world.worker()["kudos_details"]["uptime"] == 194.28


def test_a_break_begins_the_ten_minutes_anew(world: World) -> None:
    world.pop()
    stay_online(world, 500)
    world.now += 301
    world.pop()
    stay_online(world, 500)
    assert world.worker()["uptime"] == 1000
    assert world.worker()["kudos_details"]["uptime"] is None


def test_maintenance_earns_nothing(world: World) -> None:
    world.pop()
    change(world, maintenance=True)
    for _ in range(8):
        world.now += 100
        world.try_pop()
    assert world.worker()["kudos_details"]["uptime"] is None


def test_only_owners_and_moderators_may_change_a_worker(world: World) -> None:
    world.pop()
    assert refused(change(world, ALICE, maintenance=True)) == (403, "NotOwner")
    assert refused(change(world, OWNER, paused=True)) == (403, "NotModerator")
