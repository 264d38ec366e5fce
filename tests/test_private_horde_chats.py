"""The private horde's extension for chats: messages go to workers whose servers read them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from horde_proxy.aihorde.transcript import AGAIN, line
from horde_proxy.private_horde import accounts, chats, prompt_filters
from horde_proxy.private_horde.errors import HordeError
from horde_proxy.private_horde.operation import AccessRules
from tests.test_private_horde import ALICE, ANONYMOUS, ASYNC, BOB, NOVA, OWNER
from tests.test_private_horde_stream import PROGRESS, Streaming, texts
from tests.test_private_horde_webhooks import URL, Receiver

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Greet me."}]
CHAT: dict[str, Any] = {"messages": MESSAGES, "temperature": 0.5, "stop": ["###"]}
HELLO = line({"content": "Hel"}) + line({"content": "lo"})
END = line(finish_reason="stop", usage={"prompt_tokens": 12, "completion_tokens": 2})
CALL = line({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{"}}]})
THINKS = line({"reasoning_content": "Hm."})


class Chats(Streaming):
    """A private horde with clients that send chats, and workers that take them."""

    def chat(self, chat: dict[str, Any] = CHAT, key: str = ALICE, **fields: Any) -> str:
        params = {"n": fields.pop("n", 1), "max_length": fields.pop("max_length", 80)}
        body = {"chat": chat, "models": [NOVA], "params": params, **fields}
        response = self.post(ASYNC, key, body)
        assert response.status_code == 202, response.json
        return str(response.get_json()["id"])

    def refuse(self, chat: Any, **fields: Any) -> Any:
        response = self.post(ASYNC, ALICE, {"chat": chat, "models": [NOVA], **fields})
        assert response.status_code == 400, response.json
        return response.json

    def take(self, name: str = "server", **offer: Any) -> Any:
        """The answer of a pop of a worker that takes chats."""
        response = self.try_pop(name, **{"extensions": ["chat"], **offer})
        assert response.status_code == 200, response.json
        return response.get_json()


@pytest.fixture
def world() -> Chats:
    return Chats()


# Who gets what


def test_a_chat_goes_to_a_worker_that_takes_chats_as_it_was_sent(world: Chats) -> None:
    world.chat()
    popped = world.take()
    assert popped["payload"]["chat"] == CHAT
    assert popped["payload"]["prompt"] == ""
    assert popped["payload"]["max_length"] == 80
    assert "continue" not in popped["payload"]
    assert popped["model"] == NOVA


@pytest.mark.parametrize(
    ("chat", "seeds"),
    [
        ({**CHAT, "seed": 7}, [7, 8, 9]),
        ({**CHAT, "seed": -1}, [-1, -1, -1]),
        (CHAT, [None, None, None]),
    ],
)
def test_the_results_of_a_chat_have_seeds_of_their_own(
    world: Chats, chat: Any, seeds: list[int | None]
) -> None:
    """The same seed would give the same text several times."""
    world.chat(chat, n=3)
    assert [world.take()["payload"]["chat"].get("seed") for _ in seeds] == seeds


def test_a_plain_worker_gets_no_chat_and_counts_it_as_skipped(world: Chats) -> None:
    request_id = world.chat()
    plain = world.try_pop().get_json()
    assert (plain["id"], plain["skipped"]) == (None, {"bridge_version": 1})
    assert "chat" not in plain["payload"]
    unknown = world.try_pop(extensions=["other"]).get_json()
    assert (unknown["id"], unknown["skipped"]) == (None, {"bridge_version": 1})
    assert world.status(request_id)["is_possible"] is False
    assert world.take()["id"] is not None


def test_a_worker_that_takes_chats_gets_prompts_as_well(world: Chats) -> None:
    world.submit()
    popped = world.take()
    assert popped["payload"]["prompt"] == "Say hi."
    assert "chat" not in popped["payload"]


def test_a_chat_without_a_worker_for_chats_has_the_usual_warning(world: Chats) -> None:
    world.pop()
    body = {"chat": CHAT, "models": [NOVA]}
    message = world.post(ASYNC, ALICE, body).get_json()["message"]
    assert message.startswith("Warning: No available workers can fulfill this request.")
    world.take(name="other", models=["another model"])
    assert "message" in world.post(ASYNC, ALICE, body).get_json()
    world.take()
    assert "message" not in world.post(ASYNC, ALICE, body).get_json()


def test_the_list_of_workers_says_who_takes_chats(world: Chats) -> None:
    world.take("server")
    world.pop("plain")
    assert world.worker("server")["extensions"] == ["chat"]
    assert "extensions" not in world.worker("plain")
    world.pop("server")
    world.now += 40
    world.pop("server")
    assert "extensions" not in world.worker("server")


def test_a_horde_without_the_extension_knows_no_chats() -> None:
    world = Chats(extensions=("stream", "wait"))
    assert world.get("status/heartbeat").headers["Horde-Extensions"] == "stream, wait"
    # As a field that AI-Horde does not know.
    assert world.refuse(CHAT)["errors"] == {
        "prompt": "The prompt to generate from. Missing required parameter in the JSON body"
    }
    world.submit(chat="no object")
    assert world.popped(extensions=["chat"]) == "Say hi."
    assert "extensions" not in world.worker()


# What is refused


@pytest.mark.parametrize(
    ("chat", "errors"),
    [
        ({}, {"chat.messages": "It is a list of one message or more."}),
        ({"messages": []}, {"chat.messages": "It is a list of one message or more."}),
        ({"messages": "Hi"}, {"chat.messages": "It is a list of one message or more."}),
        ({"messages": ["Hi"]}, {"chat.messages.0": "A message is an object."}),
        (
            {"messages": [*MESSAGES, {}, {"role": ["user"]}]},
            {
                "chat.messages.2.role": "It is one of "
                "system, developer, user, assistant, tool, function.",
                "chat.messages.3.role": "It is one of "
                "system, developer, user, assistant, tool, function.",
            },
        ),
        (
            {"messages": [{"role": "user", "content": ["Hi"]}]},
            {"chat.messages.0.content": "It is a text, a list of objects, or null."},
        ),
        (
            {"messages": [{"role": "user", "content": 1, "tool_calls": {}}]},
            {
                "chat.messages.0.content": "It is a text, a list of objects, or null.",
                "chat.messages.0.tool_calls": "It is a list of objects.",
            },
        ),
        (
            {"messages": [{"role": "user", "reasoning_content": 1}]},
            {"chat.messages.0.reasoning_content": "It is a text or null."},
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"image_url": {"url": "http://10.0.0.1/"}}]}
                ]
            },
            {"chat.messages.0.content": "Its media are data: URLs. No worker fetches an address."},
        ),
        ({**CHAT, "tools": {}}, {"chat.tools": "It is a list of objects."}),
        ({**CHAT, "continue": 1}, {"chat.continue": "It is true or false."}),
        ({**CHAT, "n": 5}, {"chat.n": "Put it into params.n of the request."}),
        (
            {**CHAT, "max_tokens": 5},
            {"chat.max_tokens": "Put it into params.max_length of the request."},
        ),
    ],
)
def test_a_chat_that_cannot_be_read_is_refused(
    world: Chats, chat: Any, errors: dict[str, str]
) -> None:
    assert world.refuse(chat) == {"errors": errors, "message": "Input payload validation failed"}


def test_a_chat_beside_a_prompt_is_refused(world: Chats) -> None:
    assert world.refuse(CHAT, prompt="Hi") == {
        "message": "A request has a prompt or a chat. Leave one of them out.",
        "rc": "BadRequest",
    }
    world.chat(prompt="")


def test_a_chat_has_a_bound_in_size_and_depth(world: Chats) -> None:
    large = {"messages": [{"role": "user", "content": "a" * 4_000_000}]}
    assert world.refuse(large) == {
        "message": "A chat has at most 4,000,000 characters of JSON.",
        "rc": "BadRequest",
    }
    # Characters, and not the escapes that ASCII needs for them.
    world.chat({"messages": [{"role": "user", "content": "\u4e2d" * 3_000_000}]})
    many = {**CHAT, "logit_bias": {str(number): 1 for number in range(200_000)}}
    assert world.refuse(many) == {
        "message": "A chat has at most 200,000 values of JSON.",
        "rc": "BadRequest",
    }
    deep: Any = {}
    for _ in range(100):
        deep = {"a": deep}
    assert "could not understand" in world.refuse({**CHAT, "deep": deep})["message"]


# Filters and words


def add_filter(world: Chats, regex: str, replacement: str | None = None) -> None:
    fields = {"regex": regex, "filter_type": 10, "description": None, "replacement": replacement}
    with world.horde._changing() as op:
        prompt_filters.add(op, accounts.require(op, OWNER), fields)


def test_filters_replace_words_in_every_text_of_a_chat(world: Chats) -> None:
    add_filter(world, "rose", "x")
    messages = [
        {"role": "user", "content": "A rose is", "name": "rose"},
        {"role": "user", "content": [{"type": "text", "text": "a Rose"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "rose", "type": "function", "function": {"name": "f", "arguments": '"rose"'}}
            ],
        },
        {"role": "tool", "tool_call_id": "rose", "content": "is a rose."},
    ]
    tool = {"type": "function", "function": {"name": "rose", "description": "makes a rose"}}
    documents = [{"title": "A rose", "id": "rose"}]
    world.chat({"messages": messages, "tools": [tool], "documents": documents, "user": "rose"})
    assert world.take()["payload"]["chat"] == {
        "messages": [
            {"role": "user", "content": "A x is", "name": "x"},
            {"role": "user", "content": [{"type": "text", "text": "a x"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "rose",
                        "type": "function",
                        "function": {"name": "f", "arguments": '"x"'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "rose", "content": "is a x."},
        ],
        "tools": [{"type": "function", "function": {"name": "rose", "description": "makes a x"}}],
        "documents": [{"title": "A x", "id": "rose"}],
        "user": "rose",
    }


def test_a_filter_refuses_a_word_in_the_result_of_a_tool(world: Chats) -> None:
    add_filter(world, "forbidden")
    messages = [*MESSAGES, {"role": "tool", "tool_call_id": "c", "content": "is Forbidden"}]
    assert world.refuse({"messages": messages})["rc"] == "CorruptPrompt"


def test_words_of_two_messages_are_no_phrase(world: Chats) -> None:
    add_filter(world, r"brief\.\s*greet")
    world.chat()
    add_filter(world, r"brief[^x]*greet", "y")
    assert world.refuse(CHAT)["rc"] == "CorruptPrompt"


def test_a_chat_with_a_listed_word_goes_to_another_worker(world: Chats) -> None:
    world.chat()
    popped = world.take(blacklist=["GREET"])
    assert (popped["id"], popped["skipped"]) == (None, {"blacklist": 1})
    assert world.take("other", blacklist=["greetings"])["id"] is not None


# Results and what they cost


def test_the_result_of_a_chat_is_its_content_and_its_message(world: Chats) -> None:
    request_id = world.chat()
    [job] = world.take()["ids"]
    world.deliver(job, THINKS + HELLO + END)
    [result] = world.status(request_id)["generations"]
    assert result["text"] == "Hello"
    assert result["chat"] == {
        "message": {"role": "assistant", "content": "Hello", "reasoning_content": "Hm."},
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 12, "completion_tokens": 2},
    }


def test_the_result_of_a_plain_request_has_no_chat(world: Chats) -> None:
    request_id = world.submit()
    [job] = world.take()["ids"]
    world.deliver(job, "Hi.")
    [result] = world.status(request_id)["generations"]
    assert "chat" not in result


def test_a_result_may_have_calls_and_log_probabilities_and_no_content(world: Chats) -> None:
    request_id = world.chat()
    [job] = world.take()["ids"]
    world.deliver(job, CALL + line({}, logprobs={"content": [{"token": "{"}]}))
    [result] = world.status(request_id)["generations"]
    assert result["text"] == ""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{"}}
    assert result["chat"] == {
        "message": {"role": "assistant", "content": None, "tool_calls": [call]},
        "finish_reason": None,
        "usage": None,
        "logprobs": {"content": [{"token": "{"}]},
    }


def test_a_result_without_any_text_is_taken(world: Chats) -> None:
    request_id = world.chat()
    [job] = world.take()["ids"]
    entry = {"type": "information", "value": "see_ref", "ref": "context_length_exceeded"}
    world.deliver(job, line(finish_reason="length"), gen_metadata=[entry])
    [result] = world.status(request_id)["generations"]
    assert (result["text"], result["gen_metadata"]) == ("", [entry])
    assert result["chat"]["finish_reason"] == "length"
    request_id = world.chat()
    [job] = world.take()["ids"]
    world.deliver(job, "")
    assert world.status(request_id)["generations"][0]["text"] == ""


def test_a_result_may_have_many_log_probabilities(world: Chats) -> None:
    request_id = world.chat()
    [job] = world.take()["ids"]
    top = [{"token": "a", "logprob": -1.5, "bytes": [97, 98, 99]}] * 20
    token = line({"content": "a"}, logprobs={"content": [{"token": "a", "top_logprobs": top}]})
    world.progress(job, 0, token * 1000)
    world.deliver(job, token * 4096)
    [result] = world.status(request_id)["generations"]
    assert len(result["chat"]["logprobs"]["content"]) == 4096


def test_a_webhook_has_the_message(world: Chats) -> None:
    receiver = Receiver(world)
    world.chat(webhook=URL)
    [job] = world.take()["ids"]
    world.deliver(job, HELLO + END)
    [(_, content, _)] = receiver.calls
    sent = json.loads(content)
    assert sent["text"] == "Hello"
    assert sent["chat"]["message"] == {"role": "assistant", "content": "Hello"}


def test_a_shared_key_sends_chats_within_its_limits(world: Chats) -> None:
    shared = world.horde.people.make_shared_key(ALICE, {"max_text_tokens": 100})["id"]
    world.chat(key=shared, max_length=100)
    refused = world.post(ASYNC, shared, {"chat": CHAT, "params": {"max_length": 101}})
    assert (refused.status_code, refused.get_json()["rc"]) == (403, "SharedKeyLimitExceeded")


def test_anonymous_chats_are_cut_or_refused_as_prompts_are() -> None:
    world = Chats(access=AccessRules(anonymous_max_length=50))
    refused = world.post(ASYNC, ANONYMOUS, {"chat": CHAT, "params": {"max_length": 80}})
    assert (refused.status_code, refused.get_json()["rc"]) == (403, "KudosUpfront")
    world.chat(key=ANONYMOUS, allow_downgrade=True)
    assert world.take()["payload"]["max_length"] == 50


def test_a_long_chat_without_kudos_is_cut_where_the_client_allows_it() -> None:
    world = Chats(upfront_kudos=True)
    body = {"chat": CHAT, "models": [NOVA], "params": {"max_length": 1024}}
    refused = world.post(ASYNC, BOB, body)
    assert (refused.status_code, refused.get_json()["rc"]) == (403, "KudosUpfront")
    assert world.post(ASYNC, BOB, {**body, "allow_downgrade": True}).status_code == 202
    assert world.take()["payload"]["max_length"] == 512


def test_a_chat_costs_and_earns_as_a_prompt_and_a_text_of_its_characters(world: Chats) -> None:
    words, answer = "w" * 2000, "a" * 200
    world.submit(prompt=words)
    [job] = world.take()["ids"]
    plain = world.deliver(job, answer)
    parts = [{"type": "text", "text": words[:500]}]
    messages = [{"role": "system", "content": words[500:]}, {"role": "user", "content": parts}]
    world.chat({"messages": messages})
    [job] = world.take()["ids"]
    # Each character is a line of its own, and nothing but the characters counts.
    assert world.deliver(job, "".join(line({"content": letter}) for letter in answer)) == plain


def test_a_dry_run_of_a_chat_costs_what_one_of_a_prompt_does(world: Chats) -> None:
    body = {"models": [NOVA], "dry_run": True}
    prompt = world.post(ASYNC, ALICE, {"prompt": "Say hi.", **body})
    chat = world.post(ASYNC, ALICE, {"chat": CHAT, **body})
    assert (chat.status_code, chat.json) == (200, prompt.json)


def test_a_transcript_that_cannot_be_read_goes_to_another_worker(world: Chats) -> None:
    request_id = world.chat()
    [job] = world.take()["ids"]
    response = world.try_deliver(job, "Hello")
    assert (response.status_code, response.get_json()) == (
        400,
        {
            "message": "line 1 of the transcript is not JSON. "
            "The job was given back, for another worker.",
            "rc": "BadRequest",
        },
    )
    assert world.counts(request_id) == {
        "finished": 0,
        "processing": 0,
        "restarted": 1,
        "waiting": 1,
    }
    [job] = world.take("other")["ids"]
    # The last line's end is forgiven.
    world.deliver(job, (HELLO + END).rstrip("\n"))
    [result] = world.status(request_id)["generations"]
    assert (result["text"], result["chat"]["finish_reason"]) == ("Hello", "stop")


def test_a_censored_chat_may_have_any_text(world: Chats) -> None:
    request_id = world.chat()
    [job] = world.take()["ids"]
    world.deliver(job, "Not here.", state="censored")
    [result] = world.status(request_id)["generations"]
    assert (result["state"], result["text"]) == ("censored", "Not here.")


# Texts as they grow


def test_a_stream_has_the_transcript_as_it_grows_and_the_result(world: Chats) -> None:
    request_id = world.chat()
    [job] = world.take()["ids"]
    first = line({"content": "Hel"})
    world.progress(job, 0, first)
    world.steps = [lambda: world.deliver(job, HELLO + END)]
    events = [event for event in world.events(request_id) if event]
    assert [event[2]["text"] for event in events if event[0] == "text"] == [
        first,
        line({"content": "lo"}) + END,
    ]
    [result] = [event[2] for event in events if event[0] == "generation"]
    assert (result["text"], result["chat"]["finish_reason"]) == ("Hello", "stop")
    assert events[-1][0] == "done"


def test_progress_of_a_chat_is_taken_in_whole_lines(world: Chats) -> None:
    request_id = world.chat()
    [job] = world.take()["ids"]
    first = line({"content": "Hel"})
    answer = world.progress(job, 0, HELLO[:-5])
    assert answer == {"cancelled": False, "offset": len(first)}
    # What is known already may come again.
    assert world.progress(job, 0, HELLO)["offset"] == len(HELLO)
    bad = world.post(PROGRESS, OWNER, {"id": job, "offset": len(HELLO), "text": "[]\n"})
    assert (bad.status_code, bad.get_json()) == (
        400,
        {"message": "line 1 of the transcript is not an object", "rc": "BadRequest"},
    )
    assert world.progress(job, len(HELLO)) == {"cancelled": False, "offset": len(HELLO)}
    world.steps = [lambda: world.deliver(job, HELLO)]
    assert texts(world.events(request_id)) == [(f"0:{len(HELLO)}", 0, 0, HELLO)]


def test_a_transcript_grows_to_four_million_characters(world: Chats) -> None:
    world.chat()
    [job] = world.take()["ids"]
    long = line({"content": "a" * 3_999_973})
    assert len(long) == 4_000_000
    refused = world.post(PROGRESS, OWNER, {"id": job, "text": long + "{"})
    assert refused.get_json()["message"] == "A text that grows has at most 4,000,000 characters."
    assert world.progress(job, 0, long)["offset"] == 4_000_000


def test_a_transcript_has_a_bound_in_lines(world: Chats) -> None:
    request_id = world.chat()
    [job] = world.take()["ids"]
    world.progress(job, 0, "{}\n" * 100_000)
    message = "a transcript has at most 100,000 lines"
    refused = world.post(PROGRESS, OWNER, {"id": job, "offset": 300_000, "text": "{}\n"})
    assert refused.get_json()["message"] == message
    refused = world.try_deliver(job, "{}\n" * 100_001)
    assert refused.get_json()["message"].startswith(message)
    assert world.counts(request_id)["waiting"] == 1


# Lost workers


def lose(world: Chats, text: str, name: str = "first") -> Any:
    """A worker writes so much and gives its job back."""
    popped = world.take(name)
    [job] = popped["ids"]
    world.progress(job, 0, text)
    world.deliver(job, "", state="faulted")
    return popped


def test_a_lost_chat_goes_on_after_the_partial_message(world: Chats) -> None:
    request_id = world.chat()
    lose(world, THINKS + HELLO)
    popped = world.take("second")
    partial = {"role": "assistant", "content": "Hello", "reasoning_content": "Hm."}
    assert popped["payload"]["chat"] == {**CHAT, "messages": [*MESSAGES, partial]}
    assert popped["payload"]["continue"] is True
    # 8 characters count as 20 tokens, the least that is billed.
    assert popped["payload"]["max_length"] == 60
    [job] = popped["ids"]
    more = line({"content": " you"})
    assert world.progress(job, 0, more) == {"cancelled": False, "offset": len(more)}
    world.deliver(job, more + END)
    [result] = world.status(request_id)["generations"]
    assert result["text"] == "Hello you"
    assert result["chat"]["message"]["reasoning_content"] == "Hm."
    events = list(world.events(request_id))
    assert "".join(text[3] for text in texts(iter(events))) == THINKS + HELLO + more + END


@pytest.mark.parametrize(
    ("chat", "begun"),
    [
        (CHAT, HELLO + CALL),
        (CHAT, HELLO + END),
        (CHAT, line({"refusal": "No"})),
        ({**CHAT, "response_format": {"type": "json_object"}}, HELLO),
        ({**CHAT, "grammar": "root ::= x"}, HELLO),
        ({**CHAT, "guided_json": {}}, THINKS),
    ],
)
def test_what_nobody_can_go_on_with_begins_anew(world: Chats, chat: Any, begun: str) -> None:
    request_id = world.chat(chat)
    lose(world, begun)
    popped = world.take("second")
    assert popped["payload"]["chat"] == chat
    assert "continue" not in popped["payload"]
    assert popped["payload"]["max_length"] == 80
    [job] = popped["ids"]
    other = line({"content": "Well."})
    assert world.progress(job, 0, other) == {"cancelled": False, "offset": len(other)}
    world.steps = [lambda: world.deliver(job, other + END)]
    assert "".join(text[3] for text in texts(world.events(request_id))) == (
        begun + AGAIN + other + END
    )
    [result] = world.status(request_id)["generations"]
    assert result["chat"]["message"] == {"role": "assistant", "content": "Well."}


def test_what_began_anew_is_continued_from_there(world: Chats) -> None:
    request_id = world.chat()
    lose(world, CALL)
    lose(world, HELLO, "second")
    popped = world.take("third")
    partial = {"role": "assistant", "content": "Hello"}
    assert popped["payload"]["chat"]["messages"] == [*MESSAGES, partial]
    [job] = popped["ids"]
    world.deliver(job, line({"content": "!"}))
    [result] = world.status(request_id)["generations"]
    assert result["chat"]["message"] == {"role": "assistant", "content": "Hello!"}


def test_a_chat_of_which_nothing_was_written_just_begins(world: Chats) -> None:
    world.chat()
    first = lose(world, line({"role": "assistant"}))
    second = world.take("second")
    assert second["payload"] == first["payload"]


def test_a_worker_that_cannot_continue_begins_anew_itself(world: Chats) -> None:
    request_id = world.chat()
    lose(world, HELLO)
    [job] = world.take("second")["ids"]
    world.deliver(job, AGAIN + line({"content": "Hi"}) + END)
    [result] = world.status(request_id)["generations"]
    assert result["text"] == "Hi"


def test_a_client_may_have_begun_the_answer_itself(world: Chats) -> None:
    partial = {"role": "assistant", "content": "Good ", "reasoning_content": "First. "}
    chat = {"messages": [*MESSAGES, partial], "continue": True}
    request_id = world.chat(chat)
    popped = lose(world, THINKS + HELLO)
    assert popped["payload"]["chat"] == chat
    popped = world.take("second")
    assert popped["payload"]["chat"]["messages"] == [
        *MESSAGES,
        {"role": "assistant", "content": "Good Hello", "reasoning_content": "First. Hm."},
    ]
    [job] = popped["ids"]
    world.deliver(job, line({"content": "!"}))
    # Only what is new.
    [result] = world.status(request_id)["generations"]
    assert result["text"] == "Hello!"


def test_a_worker_is_paid_for_its_own_part(world: Chats) -> None:
    world.chat()
    lose(world, line({"content": "a" * 200}))
    [job] = world.take("second")["ids"]
    rest = world.deliver(job, line({"content": "b" * 120}))
    world.chat()
    [job] = world.take("second")["ids"]
    assert world.deliver(job, line({"content": "c" * 120})) == rest


def test_several_results_of_a_chat_grow_side_by_side(world: Chats) -> None:
    request_id = world.chat(n=2)
    popped = world.take(amount=2)
    assert popped["payload"]["n"] == 1
    first, second = popped["ids"]
    world.progress(first, 0, line({"content": "One"}))
    world.progress(second, 0, line({"content": "Two"}))
    world.deliver(second, line({"content": "Two"}) + END)
    world.deliver(first, line({"content": "One"}) + END)
    assert [result["text"] for result in world.status(request_id)["generations"]] == ["Two", "One"]
    events = [event[2] for event in world.events(request_id) if event and event[0] == "generation"]
    assert [(event["index"], event["text"]) for event in events] == [(0, "One"), (1, "Two")]


# The report of the queue


def test_the_report_says_who_takes_no_chats(world: Chats) -> None:
    world.chat()
    world.pop("plain")
    [entry] = world.horde.queue(ALICE)["requests"]
    assert entry["reasons"] == ["plain does not offer chats with messages."]
    world.take("server", models=["other"])
    world.take("words", blacklist=["greet"])
    [entry] = world.horde.queue(ALICE)["requests"]
    assert "words refuses a word of the prompt (its `blacklist`)." in entry["reasons"]


def test_a_transcript_that_cannot_be_read_is_not_handed_on() -> None:
    assert chats.resumed(HELLO + "lo}\n", CHAT) == AGAIN
    assert chats.resumed(CALL + AGAIN, CHAT) == CALL + AGAIN


def test_the_texts_of_a_chat_are_found_and_put_back() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "tool", "content": ""}]
    chat = read({"messages": messages})
    assert (chat.text, chat.length) == ("a\n\0\n", 1)
    assert chat.with_text("b\n\0\nc").body == {
        "messages": [{"role": "user", "content": "b"}, {"role": "tool", "content": "c"}]
    }
    with pytest.raises(HordeError):
        chat.with_text("b")
    silent = read({"messages": [{"role": "assistant", "content": None}]})
    assert silent.with_text(silent.text).body == silent.body


def read(chat: Any) -> chats.SubmittedChat:
    found = chats.read({"prompt": "", "chat": chat})
    assert found is not None
    return found
