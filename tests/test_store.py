"""What the store keeps of answers and conversations. `AnswersBehaviour` is for any database.

SQLite is real here, PostgreSQL in tests/live.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event, text

from horde_proxy.database.engine import Database
from horde_proxy.database.migrations import Schema
from horde_proxy.store.chats import ChatStore
from horde_proxy.store.conversations import LEASE, ConversationStore
from horde_proxy.store.pictures import PictureStore
from horde_proxy.store.proxied import ProxiedStore
from horde_proxy.store.pruning import Budget, Pruner
from horde_proxy.store.records import (
    ConversationInUse,
    NotStored,
    StillRunning,
    StoredChat,
    TooLong,
)
from horde_proxy.store.responses import ResponseStore, split_events
from horde_proxy.store.schema import SCHEMA
from horde_proxy.store.stored_text import json_text, stored_id

DAY = 24 * 3600
EVENTS = [b'event: a\ndata: {"n":0}\n\n', b'event: b\ndata: {"n":1}\n\n', b"data: 2\n\n"]


def message(number: int, role: str = "user") -> dict[str, Any]:
    return {"id": f"msg_{number}", "type": "message", "role": role, "content": f"text {number}"}


def response(
    identity: str = "resp_1", *, output: int | None = None, created: int = 1000, **fields: Any
) -> dict[str, Any]:
    """A response object, with an answer of this number."""
    return {
        "id": identity,
        "object": "response",
        "created_at": created,
        "status": "completed",
        "model": "test/model",
        "previous_response_id": None,
        "conversation": None,
        "output": [] if output is None else [message(output, "assistant")],
        "usage": {"input_tokens": 1},
        **fields,
    }


def ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in items]


class Shelves:
    """All parts of the store in one database, and a clock."""

    def __init__(self, url: str, budget: Budget | None = None) -> None:
        self.seconds = 1000.0
        self.database = Database(url, setting="store.database")
        self.pruner = Pruner(self.database, 30, now=self.now, budget=budget)
        self.responses = ResponseStore(self.database, self.pruner, now=self.now)
        self.conversations = ConversationStore(self.database, self.pruner, now=self.now)
        self.chats = ChatStore(self.database, self.pruner, now=self.now)
        self.proxied = ProxiedStore(self.database, self.pruner, now=self.now)

    def now(self) -> float:
        return self.seconds


class AnswersBehaviour:
    """Needs the fixture `url`, an empty database."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Shelves]:
        store = Shelves(url)
        yield store
        store.database.close()

    @pytest.fixture
    def other(self, url: str) -> Iterator[Shelves]:
        """Another process."""
        store = Shelves(url)
        yield store
        store.database.close()

    def test_a_conversation_is_bound_as_all_that_is_in_it(self, store: Shelves) -> None:
        store.conversations.create("ann", "conv_1", [message(1)], {})
        assert store.responses.places("ann", "conv_1") == []
        home, private = ["home", "private"], ["private", "paid"]
        whole = response(conversation={"id": "conv_1"}, places=home)
        store.responses.save("ann", whole, [message(2)])
        store.responses.delete("ann", "resp_1")
        assert store.responses.places("ann", "conv_1") == [home]
        store.conversations.add_items("ann", "conv_1", [message(3)], places=private)
        store.conversations.add_items("ann", "conv_1", [message(4)])
        assert store.responses.places("ann", "conv_1") == [["private"]]
        assert store.responses.places("bob", "conv_1") == []

    def test_a_conversation_of_an_earlier_release_is_bound_as_its_responses(self, url: str) -> None:
        earlier = Schema("answers", SCHEMA.migrations[:1])
        database = Database(url, setting="store.database")
        with database.begin(earlier) as connection:
            conversations = (
                "INSERT INTO conversations VALUES ('ann', :id, 1, 1, '{}', 2, 9, NULL, NULL)"
            )
            connection.execute(text(conversations), [{"id": "bound"}, {"id": "free"}])
            for number, (conversation, places, place) in enumerate(
                (
                    ("bound", ["home", "private"], 0),
                    ("bound", ["private", "crowd"], 2),
                    ("bound", None, 4),
                    # It failed, so that nothing of it is in the conversation.
                    ("bound", ["paid"], None),
                    ("free", None, 0),
                )
            ):
                whole = json.dumps({"places": places} if places else {"text": '"places"'})
                connection.execute(
                    text(
                        "INSERT INTO responses VALUES ('ann', :id, 1, 'completed', 'm', NULL, :id, "
                        ":conversation, :place, false, 9, :response)"
                    ),
                    {
                        "id": f"resp_{number}",
                        "conversation": conversation,
                        "place": place,
                        "response": whole,
                    },
                )
        database.close()
        store = Shelves(url)
        assert store.responses.places("ann", "bound") == [["private"]]
        assert store.responses.places("ann", "free") == []
        store.database.close()

    def test_a_response_comes_back_as_it_was_stored(self, store: Shelves, other: Shelves) -> None:
        whole = response(output=2, metadata={"a": "ü 🦙"})
        store.responses.save("ann", whole, [message(1)])
        stored = other.responses.get("ann", "resp_1")
        assert stored is not None
        assert (stored.response, stored.is_streamed, stored.is_running) == (whole, False, False)
        assert list(stored.response) == list(whole)
        assert other.responses.input_items("ann", "resp_1") == [message(1)]

    def test_another_owner_finds_nothing_of_it(self, store: Shelves) -> None:
        store.responses.save("ann", response(output=2), [message(1)], events=EVENTS)
        assert store.responses.get("bob", "resp_1") is None
        assert store.responses.delete("bob", "resp_1") is False
        assert store.responses.item("bob", "msg_1") is None
        assert store.responses.events("bob", "resp_1") == []
        for look in (store.responses.input_items, store.responses.chain):
            with pytest.raises(NotStored):
                look("bob", "resp_1")
        assert store.responses.update("bob", response(status="cancelled")) is False

    def test_two_owners_may_have_the_same_id(self, store: Shelves) -> None:
        store.responses.save("ann", response(output=1), [])
        store.responses.save("bob", response(output=2), [])
        assert store.responses.delete("ann", "resp_1") is True
        assert store.responses.item("bob", "msg_2") == message(2, "assistant")
        assert store.responses.item("ann", "msg_1") is None

    def test_deleting_a_response_deletes_its_items_and_events(self, store: Shelves) -> None:
        store.responses.save("ann", response(output=2), [message(1)], events=EVENTS)
        assert store.responses.delete("ann", "resp_1") is True
        assert store.responses.delete("ann", "resp_1") is False
        assert store.responses.get("ann", "resp_1") is None
        assert [store.responses.item("ann", f"msg_{n}") for n in (1, 2)] == [None, None]
        assert store.responses.events("ann", "resp_1") == []

    def test_an_item_that_two_responses_share_outlives_one_of_them(self, store: Shelves) -> None:
        store.responses.save("ann", response("resp_1"), [message(1)])
        store.responses.save("ann", response("resp_2"), [message(1)])
        store.responses.delete("ann", "resp_1")
        assert store.responses.item("ann", "msg_1") == message(1)

    @pytest.mark.parametrize(
        ("after", "rest"), [(-1, EVENTS), (0, EVENTS[1:]), (1, EVENTS[2:]), (2, []), (99, [])]
    )
    def test_events_come_back_byte_for_byte(
        self, store: Shelves, after: int, rest: list[bytes]
    ) -> None:
        store.responses.save("ann", response(), [], events=EVENTS)
        assert store.responses.events("ann", "resp_1", after=after) == rest

    @pytest.mark.parametrize("after", range(-1, 4))
    def test_events_that_were_stored_piece_by_piece_are_one_list(
        self, store: Shelves, after: int
    ) -> None:
        store.responses.save("ann", response(status="queued"), [], events=[])
        running = response(status="in_progress")
        assert store.responses.update("ann", running, EVENTS[:1], 0) is True
        assert store.responses.update("ann", running, [], 1) is True
        assert store.responses.update("ann", response(output=1), EVENTS[1:], 1) is True
        assert store.responses.events("ann", "resp_1", after=after) == EVENTS[after + 1 :]

    def test_an_update_replaces_the_output(self, store: Shelves) -> None:
        store.responses.save("ann", response(status="queued"), [message(1)])
        store.responses.update("ann", response(status="in_progress", output=2))
        store.responses.update("ann", response(status="completed", output=3))
        stored = store.responses.get("ann", "resp_1")
        assert stored is not None
        assert stored.response == response(status="completed", output=3)
        assert store.responses.input_items("ann", "resp_1") == [message(1)]

    def test_a_complete_response_is_not_changed_any_more(self, store: Shelves) -> None:
        store.responses.save("ann", response(status="queued"), [])
        assert store.responses.update("ann", response(status="cancelled")) is True
        assert store.responses.update("ann", response(output=1)) is False
        stored = store.responses.get("ann", "resp_1")
        assert stored is not None and stored.response["status"] == "cancelled"

    def test_a_deleted_response_does_not_come_back(self, store: Shelves) -> None:
        store.responses.save("ann", response(status="queued"), [])
        store.responses.delete("ann", "resp_1")
        assert store.responses.update("ann", response(output=1), EVENTS) is False
        assert store.responses.events("ann", "resp_1") == []

    def test_a_chain_has_the_items_of_all_turns(self, store: Shelves) -> None:
        store.responses.save("ann", response("resp_1", output=2), [message(1)])
        for turn in range(2, 6):
            link = response(
                f"resp_{turn}", output=2 * turn, previous_response_id=f"resp_{turn - 1}"
            )
            store.responses.save("ann", link, [message(2 * turn - 1)])
        assert ids(store.responses.chain("ann", "resp_3")) == [f"msg_{n}" for n in range(1, 7)]
        assert len(store.responses.chain("ann", "resp_5")) == 10

    def test_a_chain_that_forks_has_the_items_of_its_own_branch(self, store: Shelves) -> None:
        store.responses.save("ann", response("resp_1", output=2), [message(1)])
        for branch in (3, 5):
            link = response(f"resp_{branch}", output=branch + 1, previous_response_id="resp_1")
            store.responses.save("ann", link, [message(branch)])
        assert ids(store.responses.chain("ann", "resp_5")) == ["msg_1", "msg_2", "msg_5", "msg_6"]

    def test_a_chain_with_a_gap_says_what_is_missing(self, store: Shelves) -> None:
        store.responses.save("ann", response("resp_1"), [message(1)])
        store.responses.save("ann", response("resp_2", previous_response_id="resp_1"), [message(2)])
        store.responses.delete("ann", "resp_1")
        with pytest.raises(NotStored) as caught:
            store.responses.chain("ann", "resp_2")
        assert caught.value.id == "resp_1"

    def test_a_response_that_runs_cannot_be_continued(self, store: Shelves) -> None:
        store.responses.save("ann", response(status="in_progress"), [message(1)])
        with pytest.raises(StillRunning):
            store.responses.chain("ann", "resp_1")

    def test_ids_of_any_kind_are_taken(self, store: Shelves) -> None:
        for identity in ("x" * 5000, "with\0nul", "half \ud83e", "", "ü/🦙"):
            item = message(1) | {"id": identity, "content": identity}
            store.responses.save("ann", response("r" + identity, previous_response_id=None), [item])
            assert store.responses.item("ann", identity) == item
            assert store.responses.get("ann", "r" + identity) is not None
            assert store.responses.get("bob", "r" + identity) is None

    def test_a_conversation_gets_the_items_of_its_responses(self, store: Shelves) -> None:
        made = store.conversations.create("ann", "conv_1", [message(1)], {"topic": "x"})
        assert made == {
            "id": "conv_1",
            "object": "conversation",
            "created_at": 1000,
            "metadata": {"topic": "x"},
        }
        turn = response(output=3, conversation={"id": "conv_1"})
        store.responses.save("ann", turn, [message(2)])
        assert ids(store.conversations.items("ann", "conv_1")) == ["msg_1", "msg_2", "msg_3"]
        # Whoever continues the response continues what stood before it.
        store.conversations.add_items("ann", "conv_1", [message(4)])
        assert ids(store.responses.chain("ann", "resp_1")) == ["msg_1", "msg_2", "msg_3"]

    def test_a_response_that_ends_later_joins_its_conversation_then(self, store: Shelves) -> None:
        store.conversations.create("ann", "conv_1", [], {})
        belongs: dict[str, Any] = {"conversation": {"id": "conv_1"}}
        store.responses.save("ann", response(status="queued", **belongs), [message(1)])
        assert store.conversations.items("ann", "conv_1") == []
        store.responses.update("ann", response(status="completed", output=2, **belongs))
        assert ids(store.conversations.items("ann", "conv_1")) == ["msg_1", "msg_2"]

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_a_failed_response_adds_nothing_to_its_conversation(
        self, store: Shelves, status: str
    ) -> None:
        store.conversations.create("ann", "conv_1", [], {})
        failed = response(status=status, output=2, conversation={"id": "conv_1"})
        store.responses.save("ann", failed, [message(1)])
        assert store.conversations.items("ann", "conv_1") == []

    def test_another_owner_does_not_reach_a_conversation(self, store: Shelves) -> None:
        store.conversations.create("ann", "conv_1", [message(1)], {})
        conversations = store.conversations
        assert conversations.delete("bob", "conv_1") is False
        attempts: list[Callable[[], object]] = [
            lambda: conversations.get("bob", "conv_1"),
            lambda: conversations.items("bob", "conv_1"),
            lambda: conversations.set_metadata("bob", "conv_1", {"a": "b"}),
            lambda: conversations.add_items("bob", "conv_1", [message(2)]),
            lambda: conversations.delete_item("bob", "conv_1", "msg_1"),
            lambda: conversations.claim("bob", "conv_1", "resp_1"),
        ]
        for attempt in attempts:
            with pytest.raises(NotStored):
                attempt()
        store.responses.save("bob", response(conversation={"id": "conv_1"}), [message(9)])
        assert conversations.items("ann", "conv_1") == [message(1)]
        assert conversations.get("ann", "conv_1")["metadata"] == {}

    def test_one_item_of_a_conversation_is_deleted(self, store: Shelves) -> None:
        store.conversations.create("ann", "conv_1", [message(1), message(2)], {"a": "b"})
        left = store.conversations.delete_item("ann", "conv_1", "msg_1")
        assert left == store.conversations.get("ann", "conv_1")
        assert store.conversations.items("ann", "conv_1") == [message(2)]
        with pytest.raises(NotStored) as caught:
            store.conversations.delete_item("ann", "conv_1", "msg_1")
        assert caught.value.id == "msg_1"

    def test_a_deleted_conversation_leaves_its_responses(self, store: Shelves) -> None:
        store.conversations.create("ann", "conv_1", [message(1)], {})
        turn = response(output=3, conversation={"id": "conv_1"})
        store.responses.save("ann", turn, [message(2)])
        assert store.conversations.delete("ann", "conv_1") is True
        assert store.conversations.delete("ann", "conv_1") is False
        assert store.responses.item("ann", "msg_1") is None
        assert store.responses.item("ann", "msg_3") == message(3, "assistant")

    def test_one_response_at_a_time_is_written_into_a_conversation(self, store: Shelves) -> None:
        store.conversations.create("ann", "conv_1", [], {})
        store.conversations.claim("ann", "conv_1", "resp_1")
        store.conversations.claim("ann", "conv_1", "resp_1")
        with pytest.raises(ConversationInUse):
            store.conversations.claim("ann", "conv_1", "resp_2")
        with pytest.raises(ConversationInUse):
            store.conversations.add_items("ann", "conv_1", [message(1)])
        assert store.conversations.items("ann", "conv_1") == []
        store.conversations.release("ann", "conv_1", "resp_2")
        with pytest.raises(ConversationInUse):
            store.conversations.claim("ann", "conv_1", "resp_2")
        store.conversations.release("ann", "conv_1", "resp_1")
        store.conversations.claim("ann", "conv_1", "resp_2")

    def test_a_process_that_died_loses_its_conversation_after_a_while(self, store: Shelves) -> None:
        store.conversations.create("ann", "conv_1", [], {})
        store.conversations.claim("ann", "conv_1", "resp_1")
        store.seconds += LEASE + 1
        store.conversations.claim("ann", "conv_1", "resp_2")

    def test_turns_of_many_threads_stay_whole(self, store: Shelves, other: Shelves) -> None:
        store.conversations.create("ann", "conv_1", [], {})

        def turn(number: int) -> None:
            shelves = (store, other)[number % 2]
            belongs: dict[str, Any] = {"conversation": {"id": "conv_1"}}
            whole = response(f"resp_{number}", output=2 * number + 1, **belongs)
            shelves.responses.save("ann", whole, [message(2 * number)])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(turn, range(24)))
        numbers = [
            int(i.removeprefix("msg_")) for i in ids(store.conversations.items("ann", "conv_1"))
        ]
        assert sorted(numbers) == list(range(48))
        assert [number + 1 for number in numbers[::2]] == numbers[1::2]

    def test_chat_completions_are_listed_in_pages(self, store: Shelves) -> None:
        for number in range(5):
            store.seconds += number % 2
            model = "other" if number == 3 else "test/model"
            completion = {"id": f"chatcmpl-{number}", "model": model}
            metadata = {"turn": str(number % 2)}
            store.chats.save("ann", StoredChat(completion, metadata, [message(number)]))
        store.chats.save("bob", StoredChat({"id": "chatcmpl-9", "model": "m"}, {}, []))

        def page(**options: Any) -> tuple[list[str], bool]:
            chats, has_more = store.chats.page("ann", **{"limit": 10, **options})
            return [chat.completion["id"][-1] for chat in chats], has_more

        assert page() == (["0", "1", "2", "3", "4"], False)
        assert page(limit=2) == (["0", "1"], True)
        assert page(limit=2, after="chatcmpl-1") == (["2", "3"], True)
        assert page(limit=2, after="chatcmpl-3") == (["4"], False)
        assert page(newest_first=True) == (["4", "3", "2", "1", "0"], False)
        assert page(newest_first=True, after="chatcmpl-3") == (["2", "1", "0"], False)
        assert page(model="other") == (["3"], False)
        assert page(metadata={"turn": "1"}, limit=1) == (["1"], True)
        with pytest.raises(NotStored):
            page(after="chatcmpl-9")

    def test_a_chat_completion_is_its_owners(self, store: Shelves) -> None:
        chat = StoredChat({"id": "chatcmpl-1", "model": "m"}, {"a": "b"}, [message(1)])
        store.chats.save("ann", chat)
        assert store.chats.get("ann", "chatcmpl-1") == chat
        changed = store.chats.set_metadata("ann", "chatcmpl-1", {"c": "d"})
        assert changed.metadata == {"c": "d"}
        with pytest.raises(NotStored):
            store.chats.get("bob", "chatcmpl-1")
        with pytest.raises(NotStored):
            store.chats.set_metadata("bob", "chatcmpl-1", {})
        assert store.chats.delete("bob", "chatcmpl-1") is False
        assert store.chats.get("ann", "chatcmpl-1") == changed
        assert store.chats.delete("ann", "chatcmpl-1") is True

    def test_a_proxied_response_is_known_to_its_owner_only(self, store: Shelves) -> None:
        store.proxied.note("ann", "resp_x", "server")
        store.proxied.note("ann", "resp_x", "server")
        assert store.proxied.endpoint("ann", "resp_x") == "server"
        assert store.proxied.endpoint("bob", "resp_x") is None

    def test_what_is_too_old_goes(self, store: Shelves) -> None:
        store.responses.save("ann", response("resp_1", output=1), [message(1)], events=EVENTS)
        store.conversations.create("ann", "conv_1", [message(7)], {})
        store.conversations.create("ann", "conv_2", [], {})
        store.chats.save("ann", StoredChat({"id": "chatcmpl-1", "model": "m"}, {}, []))
        store.proxied.note("ann", "resp_x", "server")
        store.seconds += 29 * DAY
        store.conversations.add_items("ann", "conv_2", [message(8)])
        store.pruner.prune()
        assert store.responses.get("ann", "resp_1") is not None
        store.seconds += 2 * DAY
        store.pruner.prune()
        assert store.responses.get("ann", "resp_1") is None
        assert store.responses.events("ann", "resp_1") == []
        assert [store.responses.item("ann", f"msg_{n}") for n in (1, 7)] == [None, None]
        assert store.conversations.items("ann", "conv_2") == [message(8)]
        assert store.proxied.endpoint("ann", "resp_x") is None
        with pytest.raises(NotStored):
            store.conversations.get("ann", "conv_1")
        with pytest.raises(NotStored):
            store.chats.get("ann", "chatcmpl-1")

    def test_a_chain_is_kept_as_long_as_its_newest_response(self, store: Shelves) -> None:
        store.responses.save("ann", response("resp_1"), [message(1)])
        store.seconds += 29 * DAY
        newest = response("resp_2", created=int(store.seconds), previous_response_id="resp_1")
        store.responses.save("ann", newest, [message(2)])
        store.seconds += 2 * DAY
        store.pruner.prune()
        assert ids(store.responses.chain("ann", "resp_2")) == ["msg_1", "msg_2"]
        store.seconds += 30 * DAY
        store.pruner.prune()
        assert store.responses.get("ann", "resp_1") is None

    @pytest.mark.parametrize("budget", [Budget(owner=10_000), Budget(total=10_000)])
    def test_the_oldest_goes_first_when_there_is_too_much(self, url: str, budget: Budget) -> None:
        store = Shelves(url, budget)
        for number in range(5):
            large = [message(number) | {"content": "x" * 3000}]
            store.responses.save("ann", response(f"resp_{number}", created=1000 + number), large)
            store.conversations.create("ann", f"conv_{number}", large, {})
            store.seconds += 1
        store.pruner.prune()
        left = [n for n in range(5) if store.responses.get("ann", f"resp_{n}")]
        assert left == [2, 3, 4]
        for number in (2, 3, 4):
            assert store.conversations.get("ann", f"conv_{number}")["created_at"] == 1000 + number
        with pytest.raises(NotStored):
            store.conversations.get("ann", "conv_1")
        store.database.close()

    def test_what_is_too_long_is_not_gone_on_with(self, url: str) -> None:
        store = Shelves(url, Budget(answer=300))
        store.conversations.create("ann", "conv_1", [message(0)], {})
        fields: dict[str, Any] = {"conversation": {"id": "conv_1"}}
        store.responses.save("ann", response("r1", output=2, **fields), [message(1)])
        before = "r1"
        for number, identity in enumerate(("r2", "r3")):
            assert len(store.responses.chain("ann", before)) == 3 + number
            fields = {"previous_response_id": before}
            store.responses.save("ann", response(identity, **fields), [message(3 + number)])
            before = identity
        with pytest.raises(TooLong):
            store.responses.chain("ann", before)
        store.database.close()

    def test_a_conversation_has_an_end(self, url: str) -> None:
        store = Shelves(url, Budget(answer=190))
        store.conversations.create("ann", "conv_1", [message(0), message(1)], {})
        with pytest.raises(TooLong):
            store.conversations.add_items("ann", "conv_1", [message(2)])
        assert ids(store.conversations.items("ann", "conv_1")) == ["msg_0", "msg_1"]
        store.conversations.delete_item("ann", "conv_1", "msg_0")
        store.conversations.add_items("ann", "conv_1", [message(2)])
        fields: dict[str, Any] = {"conversation": {"id": "conv_1"}}
        store.responses.save("ann", response("r1", output=4, **fields), [message(3)])
        with pytest.raises(TooLong):
            store.conversations.claim("ann", "conv_1", "writer")
        store.conversations.delete_item("ann", "conv_1", "msg_1")
        store.conversations.delete_item("ann", "conv_1", "msg_2")
        store.conversations.claim("ann", "conv_1", "writer")
        store.database.close()

    def test_one_owners_excess_takes_nothing_from_another(self, url: str) -> None:
        store = Shelves(url, Budget(owner=5000))
        store.responses.save("bob", response(created=1), [message(1)])
        for number in range(5):
            large = [message(number) | {"content": "x" * 3000}]
            store.responses.save("ann", response(f"resp_{number}", created=1000 + number), large)
        store.pruner.prune()
        assert store.responses.get("bob", "resp_1") is not None
        assert [n for n in range(5) if store.responses.get("ann", f"resp_{n}")] == [4]
        store.database.close()


class WritesFirst:
    """Each transaction that writes begins with that.

    SQLite refuses to write after a read, without any waiting, if others wrote in between.
    """

    @pytest.fixture(autouse=True)
    def _transactions(self) -> Iterator[None]:
        transactions: dict[Connection, list[str]] = {}
        done: list[list[str]] = []

        def begin(connection: Connection) -> None:
            if "begin" not in connection.get_execution_options():
                transactions[connection] = []
                done.append(transactions[connection])

        def execute(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
            if connection in transactions and not statement.startswith("BEGIN"):
                transactions[connection].append(statement.split()[0])

        event.listen(Engine, "begin", begin)
        event.listen(Engine, "before_cursor_execute", execute)
        yield
        event.remove(Engine, "begin", begin)
        event.remove(Engine, "before_cursor_execute", execute)
        late = [kinds for kinds in done if "SELECT" in kinds[:1] and {*kinds} != {"SELECT"}]
        assert late == []


class TestSqlite(WritesFirst, AnswersBehaviour):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/store.db"


def test_pruning_happens_once_an_hour_and_after_much_was_added(tmp_path: Path) -> None:
    database, seconds = Database(f"sqlite:///{tmp_path}/store.db", setting="x"), [0.0]
    runs: list[object] = []
    pruner = Pruner(database, 30, now=lambda: seconds[0], run=runs.append)
    for moment, size, count in ((0, 1, 1), (3599, 1, 1), (3600, 1, 2), (3601, 70_000_000, 3)):
        seconds[0] = moment
        pruner.added(size)
        assert len(runs) == count


def test_a_clock_that_was_set_back_does_not_stop_pruning(tmp_path: Path) -> None:
    database, seconds = Database(f"sqlite:///{tmp_path}/store.db", setting="x"), [90_000.0]
    runs: list[object] = []
    pruner = Pruner(database, 30, now=lambda: seconds[0], run=runs.append)
    pruner.added(1)
    seconds[0] = 50_000.0
    pruner.added(1)
    assert len(runs) == 2


def test_a_clock_that_was_set_back_does_not_keep_all_pictures(tmp_path: Path) -> None:
    seconds = [90_000.0]
    store = PictureStore(tmp_path, seconds=1e12, most_bytes=10, now=lambda: seconds[0])
    store.add(b"x" * 10, "png")
    seconds[0] = 50_000.0
    store.add(b"y" * 10, "png")
    assert len(list(tmp_path.iterdir())) == 1


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"") or b"x"), max_size=20))
def test_events_are_split_where_they_end(events: list[bytes]) -> None:
    written = [event + b"\n\n" for event in events]
    assert split_events(b"".join(written)) == written


@given(st.text(max_size=300))
def test_any_id_has_one_key_that_databases_take(identity: str) -> None:
    key = stored_id(identity)
    assert key.encode().decode() == key and "\0" not in key and len(key) <= 200
    assert stored_id(key) == key


def test_json_that_is_not_unicode_is_escaped() -> None:
    assert json_text({"a": "half \ud83e"}) == '{"a":"half \\ud83e"}'
    assert json_text({"a": "ü"}) == '{"a":"ü"}'
