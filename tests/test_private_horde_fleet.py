"""Workers of the private horde: what owners change, what the horde notices, what uptime earns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.records import HordeAccount, LedgerEntry, Worker
from horde_proxy.private_horde.store.opening import open_store
from tests.test_private_horde import ALICE, BOB, OWNER, World, refused

ADMIN = "<admin-apikey>"


@pytest.fixture
def world() -> World:
    world = World()
    world.horde.add_account(ADMIN, "admin", roles=("admin",))
    return world


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


def call(world: World, method: str, path: str, key: str = ADMIN, **body: Any) -> Any:
    return world.client.open(f"/api/v2/{path}", method=method, json=body, headers={"apikey": key})


def test_a_paused_worker_gets_no_jobs_and_no_error(world: World) -> None:
    world.pop()
    assert change(world, ADMIN, paused=True).get_json() == {"paused": True}
    request_id = world.submit()
    assert world.pop() == []
    assert world.status(request_id)["is_possible"] is False
    change(world, ADMIN, paused=False)
    assert len(world.pop()) == 1


def test_moderators_see_suspicions_owner_and_address(world: World) -> None:
    world.submit(max_length=512)
    [job] = world.pop("doubtful", BOB)
    world.now += 1
    world.deliver(job, "word " * 400, BOB)
    path = "workers/name/doubtful"
    shown = world.get(path, apikey=ADMIN).get_json()
    assert (shown["owner"], shown["ipaddr"], shown["suspicious"]) == ("poorbob#3", "127.0.0.1", 1)
    assert shown["suspicions"] == ["It delivered 500 tokens per second."]
    for key in (BOB, ALICE):
        assert not {"suspicious", "suspicions"} & set(world.get(path, apikey=key).get_json())
    call(world, "PUT", "users/3", reset_suspicion=True)
    assert world.get(path, apikey=ADMIN).get_json()["suspicious"] == 0


def test_a_message_comes_with_each_pop_until_it_expires(world: World) -> None:
    world.pop()
    worker_id = world.worker()["id"]
    body = {"worker_id": worker_id, "message": "please update", "expiry": 2}
    sent = call(world, "POST", "workers/messages", **body).get_json()
    expected = {
        "id": sent["id"],
        "message": "please update",
        "origin": "admin#5",
        "expiry": "Thu, 01 Jan 1970 02:16:40 -0000",
    }
    assert world.try_pop().get_json()["messages"] == [expected]
    assert world.try_pop("other").get_json()["messages"] == []
    world.now += 7201
    assert world.try_pop().get_json()["messages"] == []
    assert call(world, "GET", "workers/messages").get_json() == []


def test_a_message_to_all_workers_is_for_moderators_only(world: World) -> None:
    response = call(world, "POST", "workers/messages", OWNER, message="hello all")
    assert refused(response) == (403, "NotModerator")
    call(world, "POST", "workers/messages", message="hello all")
    assert [item["message"] for item in world.try_pop().get_json()["messages"]] == ["hello all"]


def test_a_filter_refuses_prompts_whatever_their_case(world: World) -> None:
    call(world, "PUT", "filters", regex="bad ?word", filter_type=10)
    response = world.post("/api/v2/generate/text/async", ALICE, {"prompt": "a BadWord here"})
    assert refused(response) == (400, "CorruptPrompt")
    assert world.post("/api/v2/generate/text/async", ALICE, {"prompt": "fine"}).status_code == 202


def test_a_filter_with_a_replacement_changes_the_prompt(world: World) -> None:
    call(world, "PUT", "filters", regex="curse(d|s)?", filter_type=20, replacement=r"fl\1wer")
    world.submit(prompt="What a cursed curse!")
    assert world.popped() == r"What a fl\1wer fl\1wer!"


def test_filters_search_prompts_with_half_a_surrogate_pair(world: World) -> None:
    call(world, "PUT", "filters", regex="curse", filter_type=20, replacement="flower")
    world.submit(prompt="a curse \ud83d")
    assert world.popped() == "a flower ?"
    tried = call(world, "POST", "filters", prompt="a curse \ud83d").get_json()
    assert tried == {"suspicion": "1", "matches": ["curse"]}


def test_a_filter_that_is_no_regular_expression_is_refused(world: World) -> None:
    response = call(world, "PUT", "filters", regex="(a", filter_type=10)
    assert refused(response) == (400, "BadRequest")
    assert response.get_json()["message"] == "The regex is not valid: missing ): (a"


@pytest.mark.parametrize("regex", ["x*", "(curse)?", "^", "a|"])
def test_a_filter_that_matches_an_empty_text_is_refused(world: World, regex: str) -> None:
    response = call(world, "PUT", "filters", regex=regex, filter_type=10)
    assert refused(response) == (400, "BadRequest")
    made = call(world, "PUT", "filters", regex="curse", filter_type=10).get_json()
    response = call(world, "PATCH", f"filters/{made['id']}", regex=regex)
    assert refused(response) == (400, "BadRequest")


def test_replacements_add_100_000_characters_to_a_prompt_at_most(world: World) -> None:
    call(world, "PUT", "filters", regex="x", filter_type=10, replacement="y" * 500)
    world.submit(prompt="x" * 200)
    assert world.popped() == "y" * 100_000
    response = world.post("/api/v2/generate/text/async", ALICE, {"prompt": "x" * 201})
    assert refused(response) == (400, "CorruptPrompt")


def test_by_invitation_only_an_account_adds_as_many_workers_as_it_was_invited_for(
    world: World,
) -> None:
    world.pop()
    call(world, "PUT", "status/modes", invite_only_mode=True)
    assert refused(world.try_pop("second")) == (403, "WorkerInviteOnly")
    assert world.try_pop().status_code == 200
    call(world, "PUT", "users/1", worker_invited=2)
    assert world.try_pop("second").status_code == 200


def test_maintenance_is_kept_in_the_store_and_ends(world: World) -> None:
    call(world, "PUT", "status/modes", maintenance_mode=True)
    assert world.get("status/modes").get_json()["maintenance_mode"] is True
    response = world.post("/api/v2/generate/text/async", ALICE, {"prompt": "x"})
    assert refused(response) == (400, "MaintenanceMode")
    call(world, "PUT", "status/modes", maintenance_mode=False)
    world.submit()


def test_a_team_sums_its_workers_up(world: World) -> None:
    team_id = call(world, "POST", "teams", OWNER, name="night owls").get_json()["id"]
    for name in ("one", "two", "three"):
        world.submit()
        world.deliver(*world.pop(name))
        if name != "three":
            call(world, "PUT", f"workers/{world.worker(name)['id']}", OWNER, team=team_id)
    team = world.get(f"teams/{team_id}").get_json()
    kudos = world.worker("one")["kudos_rewards"] + world.worker("two")["kudos_rewards"]
    assert (team["requests_fulfilled"], team["worker_count"], team["kudos"]) == (2, 2, kudos)
    assert world.worker("one")["team"] == {"name": "night owls", "id": team_id}
    call(world, "DELETE", f"teams/{team_id}", OWNER)
    assert world.worker("one")["team"] == {"name": None, "id": None}


def test_news_are_published_and_removed_by_administrators(world: World) -> None:
    response = call(world, "POST", "status/news", ALICE, title="t", newspiece="n")
    assert refused(response) == (403, "NotAdmin")
    item = call(world, "POST", "status/news", title="Update", newspiece="**Now.**").get_json()
    assert [news["title"] for news in world.get("status/news").get_json()] == ["Update"]
    call(world, "DELETE", f"status/news/{item['id']}")
    assert world.get("status/news").get_json() == []


def test_a_database_keeps_teams_messages_filters_modes_and_news(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/horde.db"
    world = World(store=open_store(url))
    world.horde.add_account(ADMIN, "admin", roles=("admin",))
    world.pop()
    worker_id = world.worker()["id"]
    team_id = call(world, "POST", "teams", name="night owls").get_json()["id"]
    call(world, "PUT", f"workers/{worker_id}", team=team_id, info="in the attic")
    call(world, "POST", "workers/messages", worker_id=worker_id, message="hello")
    call(world, "PUT", "filters", regex="curse", filter_type=10)
    call(world, "PUT", "status/modes", maintenance_mode=True)
    call(world, "POST", "status/news", title="Update", newspiece="n", tags=["a"])
    world.horde.store.close()

    second = PrivateHorde(store=open_store(url), clock=lambda: world.now)
    assert second.moderation.teams()[0]["workers"][0]["id"] == worker_id
    assert second.fleet.worker(worker_id)["info"] == "in the attic"
    assert [item["message"] for item in second.moderation.messages(ADMIN)] == ["hello"]
    assert [item["regex"] for item in second.moderation.filters(ADMIN)] == ["curse"]
    assert second.maintenance is True
    assert [item["tags"] for item in second.moderation.news()] == [["a"]]
    second.fleet.delete_worker(ADMIN, worker_id)
    assert second.moderation.team(team_id)["worker_count"] == 0
    second.store.close()


# Kudos


def sums_up(world: World) -> None:
    """Every balance is the sum of its ledger, and every escrow what was put aside."""
    for number in range(6):
        entries = ledger(world, number)
        holder = account(world, number)
        assert holder.kudos == pytest.approx(sum(entry.amount for entry in entries))
        aside = -sum(entry.amount for entry in entries if entry.reason == "escrow")
        assert holder.escrow == pytest.approx(aside)


def test_half_of_an_untrusted_owners_earnings_is_put_aside_until_it_is_trusted(
    world: World,
) -> None:
    world.submit()
    reward = world.deliver(world.pop("w", BOB)[0], key=BOB)
    assert account(world, 3).kudos == pytest.approx(reward / 2)
    shown = world.get("users/3", apikey=ADMIN).get_json()
    assert shown["evaluating_kudos"] == round(reward / 2, 2)
    sums_up(world)
    call(world, "PUT", "users/3", trusted=True)
    assert account(world, 3).kudos == pytest.approx(reward)
    assert account(world, 3).escrow == 0
    sums_up(world)


def test_an_untrusted_owners_uptime_is_put_aside_as_a_whole(world: World) -> None:
    world.pop("manual-text-1", BOB)
    stay_online(world, 600, BOB)
    assert (account(world, 3).kudos, account(world, 3).escrow) == (0, 97.14)
    sums_up(world)


def free_world() -> World:
    world = World(kudos=False, upfront_kudos=True)
    world.horde.add_account(ADMIN, "admin", roles=("admin",))
    return world


def test_without_kudos_nothing_is_paid_or_earned() -> None:
    world = free_world()
    request_id = world.submit(BOB, max_length=4000, max_context_length=4096)
    world.deliver(*world.pop(max_length=4096))
    assert world.status(request_id)["kudos"] == 0
    assert (account(world, 1).kudos, account(world, 3).kudos) == (0, 0)
    body = {"prompt": "x", "dry_run": True}
    assert world.post("/api/v2/generate/text/async", BOB, body).get_json() == {"kudos": 0}
    assert world.get("status/modes").get_json()["kudos"] == "off"


def test_without_kudos_the_account_that_got_least_comes_first() -> None:
    world = free_world()
    for number in range(3):
        world.submit(ALICE, prompt=f"alice {number}")
    world.submit(BOB, prompt="bob 0")
    world.submit(BOB, prompt="bob 1", max_length=16)
    order = [world.popped() for _ in range(5)]
    assert order == ["alice 0", "bob 0", "alice 1", "bob 1", "alice 2"]


def test_without_kudos_what_was_cancelled_before_its_turn_does_not_count() -> None:
    world = free_world()
    for _ in range(5):
        world.cancel(world.submit(ALICE, max_length=500))
    world.submit(ALICE, prompt="alice")
    world.submit(BOB, prompt="bob")
    assert [world.popped(), world.popped()] == ["alice", "bob"]


def test_without_kudos_cancelling_gives_back_what_was_taken_and_no_more() -> None:
    world = free_world()
    call(world, "PUT", "users/2", concurrency=100)
    # 10 tokens are a second of the turn, which moves on by 3600 s at most.
    largest = [world.submit(ALICE, n=20, max_length=512) for _ in range(4)]
    assert round(account(world, 2).turn, 3) == 4600
    taken = []
    for request_id in reversed(largest):
        before = account(world, 2).turn
        world.cancel(request_id)
        taken.append(round(before - account(world, 2).turn, 3))
    assert taken == [528, 1024, 1024, 1024]
    assert round(account(world, 2).turn, 3) == 1000


def test_without_kudos_a_flagged_account_gets_nothing_back() -> None:
    world = free_world()
    call(world, "PUT", "users/2", flagged=True)
    world.cancel(world.submit(ALICE, max_length=500))
    assert round(account(world, 2).turn, 3) == 1050


def test_without_kudos_an_hour_makes_all_equal_again() -> None:
    world = free_world()
    for _ in range(15):
        world.submit(ALICE, max_length=500)
        world.popped()
    world.now += 3600
    world.submit(ALICE, prompt="alice")
    world.submit(BOB, prompt="bob")
    assert [world.popped(), world.popped()] == ["alice", "bob"]
