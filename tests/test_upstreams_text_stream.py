"""Answers as they grow: worker, private horde and proxy, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from horde_proxy.private_horde.text_stream import TextStream
from horde_proxy.protocol.chat import read_chat
from horde_proxy.protocol.chunks import fold
from horde_proxy.upstreams.base import Caller, Route, StreamItem
from horde_proxy.upstreams.horde.text_events import BrokenStream, longer, read_events
from tests.support import Cable, PieceByPiece, Scripted, World, is_thorough
from tests.test_model_outputs import CASES, TOOLS, Case


def hire(world: World, text: str, size: int = 6, **options: Any) -> PieceByPiece:
    """A worker that writes pieces; where its prompt ends with a beginning, it writes the rest."""

    def rest(payload: Mapping[str, Any]) -> str:
        prompt = str(payload["prompt"])
        begun = max((n for n in range(len(text) + 1) if prompt.endswith(text[:n])), default=0)
        return text[begun:]

    worker = PieceByPiece(world.session, rest, size, **options)
    worker.step()
    world.clock.every_sleep.append(worker.step)
    return worker


def chat(world: World, **fields: Any) -> Iterator[StreamItem]:
    body = {
        "model": "test/model",
        "messages": [{"role": "user", "content": "Go on."}],
        "stream": True,
        **fields,
    }
    upstream = world.upstream()
    return upstream.stream(read_chat(body), Route(upstream, (body["model"],)), Caller())


def contents(items: Iterator[StreamItem]) -> list[str]:
    deltas = (
        choice["delta"] for item in items if isinstance(item, dict) for choice in item["choices"]
    )
    return [delta["content"] for delta in deltas if delta.get("content")]


def test_text_reaches_the_client_while_the_worker_writes() -> None:
    world = World(streams=True)
    hire(world, "The sun is far away.")
    cable = world.cable()
    arrived: list[tuple[str, int]] = []
    for item in chat(world):
        if isinstance(item, dict) and (text := "".join(contents(iter([item])))):
            arrived.append((text, sum("progress" in call for call in cable.calls)))
    assert "".join(text for text, _ in arrived) == "The sun is far away."
    # The first words came before the last piece was sent.
    assert (arrived[0][0], arrived[0][1] < arrived[-1][1]) == ("The", True)
    # One stream, and not one poll.
    calls = [call.split("/text/")[-1].split("/")[0] for call in cable.calls if "GET gen" in call]
    assert calls == ["stream"]


def test_a_horde_without_the_extension_is_polled() -> None:
    world = World()
    world.employ(Scripted("The sun is far away."))
    cable = world.cable()
    assert "".join(contents(chat(world))) == "The sun is far away."
    assert not [call for call in cable.calls if "stream" in call or "progress" in call]


def test_a_lost_worker_is_followed_by_another_in_the_same_stream() -> None:
    world = World(streams=True)
    worker = hire(world, "The sun is far away.", lost_after=2)
    assert "".join(contents(chat(world))) == "The sun is far away."
    assert str(worker.payloads[1]["prompt"]).endswith("The sun is f")


def test_a_client_that_leaves_cancels_the_worker() -> None:
    world = World(streams=True)
    worker = hire(world, "The sun is far away. " * 20)
    items = chat(world)
    for item in items:
        if isinstance(item, dict) and contents(iter([item])):
            break
    items.close()  # type: ignore[attr-defined]
    worker.step()
    assert (worker.cancelled, world.horde.open_requests()) == (1, [])


def test_a_stream_that_breaks_is_polled_on_and_opened_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams: list[TextStream] = []

    def open_stream(*arguments: Any, **options: Any) -> TextStream:
        streams.append(TextStream(*arguments, **options))
        return streams[-1]

    monkeypatch.setattr("horde_proxy.private_horde.streams.TextStream", open_stream)
    world = World(streams=True)
    hire(world, "The sun is far away. " * 20, size=2)
    cable, text = world.cable(), ""
    for item in chat(world):
        if isinstance(item, dict):
            text += "".join(contents(iter([item])))
        # Two connections break, as when the horde restarts.
        if streams_of(cable) < 3 and "sun" in text:
            break_streams(streams)
    assert text == "The sun is far away. " * 20
    assert streams_of(cable) == 3
    assert [call for call in cable.calls if call.startswith("GET generate/text/status")]


def streams_of(cable: Cable) -> int:
    return sum(call.startswith("GET generate/text/stream") for call in cable.calls)


def break_streams(streams: list[TextStream]) -> None:
    """Make the horde leave out a piece in all of its streams, which breaks them."""
    for stream in streams:
        stream.sent = {slot: length + 1 for slot, length in stream.sent.items()}


# The text before a </think> that nothing announced was content already.
GIVEN_EARLY = frozenset({"y4-long-then-close"})
TEXTS = [case for case in CASES if isinstance(case["text"], str)]


def size_of(number: int, text: str) -> int:
    """The characters of a piece: 1, 3 or 40, but more for a text that would take long."""
    return max((1, 3, 40)[number % 3], len(text) // (25 if is_thorough() else 8))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("case", "size"), [(case, size_of(number, case["text"])) for number, case in enumerate(TEXTS)]
)
def test_an_answer_in_pieces_is_the_same_as_a_whole_one(case: Case, size: int) -> None:
    world = World(streams=True)
    whole = message(world, case, 10**6, is_streamed=False)
    streamed = message(world, case, size, is_streamed=True)
    assert (whole == streamed) is (case["name"] not in GIVEN_EARLY)


def message(world: World, case: Case, size: int, *, is_streamed: bool) -> dict[str, Any]:
    """The only choice of the answer to a case, with the same ids of calls each time."""
    fields: dict[str, Any] = {"model": case["model"], "stream": is_streamed}
    if not case.get("notools"):
        fields |= {"tools": TOOLS, "parallel_tool_calls": case.get("parallel", True)}
    worker = PieceByPiece(world.session, lambda _: str(case["text"]), size, model=case["model"])
    worker.step()
    world.clock.every_sleep[:] = [worker.step]
    [choice] = fold([item for item in chat(world, **fields) if isinstance(item, dict)])["choices"]
    for number, call in enumerate(choice["message"].get("tool_calls") or ()):
        call["id"] = str(number)
    return {**choice, "content": choice["message"]["content"] or ""}


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        ([b"event: text\nda", b"ta: {}\n\n"], "ended early"),
        ([b"event: text\ndata: {\n\n"], "not JSON"),
        ([b"event: text\ndata: []\n\n"], "not an object"),
        ([b"x" * 9_000_000], "too large"),
    ],
)
def test_an_answer_that_is_no_event_stream_is_an_error(pieces: list[bytes], problem: str) -> None:
    with pytest.raises(BrokenStream, match=problem):
        list(read_events(iter(pieces)))


def test_each_piece_of_an_event_is_a_sign_of_life() -> None:
    events = read_events(iter([b"event: text\nda", b"ta: {}", b"\n\n"]))
    assert [next(events) for _ in range(3)] == [None, None, ("text", {})]


def test_a_text_that_grows_without_end_breaks_the_stream() -> None:
    with pytest.raises(BrokenStream, match="too long"):
        longer("a" * 7_999_999, {"index": 0, "offset": 7_999_999, "text": "bc"})
