"""A server's event stream as chunks, for an answer that began at another kind of upstream.

    reader thread     start() -> bytes -> chunks -> queue, and at last None or an error
    request thread    takes from the queue; a Waiting whenever nothing came for a while

The reader blocks on the server's socket. The request thread must not: it has to look at its client
and at the clock. `stop` ends the call at the server, which wakes the reader.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from queue import Empty, SimpleQueue
from typing import Any

from horde_proxy.errors import (
    InvalidRequest,
    ProxyError,
    ServerBug,
    Unavailable,
    UpstreamFailed,
)
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.usage import tidy_usage
from horde_proxy.upstreams.base import LONGEST_SLEEP, Accepted, StreamItem, Waiting
from horde_proxy.upstreams.openai.errors import message_of, refusal_of, server_error
from horde_proxy.upstreams.proxying import ProxyResponse

_Arrived = Accepted | Chunk | BaseException | None
_THREAD_PAUSE = 5
"""Retry-After (s) when the machine allows no more threads: answers end all the time."""


def stream_items(
    name: str, start: Callable[[], ProxyResponse], stop: Callable[[], object]
) -> Generator[StreamItem, None, None]:
    """Accepted, Waitings and chunks of the stream that `start` begins and `stop` breaks off."""
    arrived: SimpleQueue[_Arrived] = SimpleQueue()
    reader = threading.Thread(target=_read, args=(name, start, arrived.put), daemon=True)
    try:
        _start(reader)
        while True:
            try:
                item = arrived.get(timeout=LONGEST_SLEEP)
            except Empty:
                yield Waiting("generating")
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop()


def _start(thread: threading.Thread) -> None:
    """Start a thread. Raises Unavailable where the machine allows no more of them."""
    try:
        thread.start()
    except RuntimeError as exc:
        raise Unavailable(
            "This proxy cannot start a thread for the stream: its machine allows no more.",
            retry_after=_THREAD_PAUSE,
        ) from exc


def as_chunks(lines: Iterable[bytes]) -> Iterator[Chunk]:
    """The chunks in an event stream's lines: a role first, the usage last and by itself.

    Servers differ in where they put the two: the role may come with the first text, the usage with
    every chunk or with the last that has a choice. Raises UpstreamFailed for an error event.
    """
    begun: set[int] = set()
    usage: Chunk | None = None
    for event in _events(lines):
        head = _head(event)
        if event.get("usage"):
            usage = {**head, "choices": [], "usage": tidy_usage(event["usage"])}
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                yield from _choice(head, choice, begun)
    if usage is not None:
        yield usage


def _head(event: dict[str, Any]) -> Chunk:
    """An event with all that OpenAI's chunks have in common, of the right types, but its usage."""
    head = {key: value for key, value in event.items() if key != "usage"}
    defaults = {"id": "", "object": "chat.completion.chunk", "created": 0, "model": ""}
    for name, default in defaults.items():
        if not isinstance(head.get(name), type(default)):
            head[name] = default
    return head


def _choice(head: Chunk, choice: dict[str, Any], begun: set[int]) -> Iterator[Chunk]:
    """The chunks of one choice in an event; `begun` are the choices whose role was sent."""
    index = choice.get("index")
    index = index if isinstance(index, int) else 0
    delta = choice.get("delta")
    # An older completion has a text instead.
    delta = dict(delta) if isinstance(delta, dict) else {"content": choice.get("text") or ""}
    delta.pop("role", None)
    parts = [{"delta": delta, "finish_reason": choice.get("finish_reason")}]
    if index not in begun:
        begun.add(index)
        role = {"role": "assistant", "content": "", "refusal": None}
        parts.insert(0, {"delta": role, "finish_reason": None})
    for part in parts:
        yield {**head, "choices": [{"index": index, "logprobs": None, **part}]}


def _events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects after "data:", up to [DONE]. Comments and other fields are skipped."""
    for line in lines:
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        if line.startswith(b"data:") and data:
            yield _event(data)


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise UpstreamFailed("it sent an event that is not JSON") from exc
    if not isinstance(event, dict) or "error" in event:
        error = event.get("error") if isinstance(event, dict) else None
        raise UpstreamFailed("it broke the answer off: " + message_of(error))
    return event


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines of bytes that come in pieces of any length."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    yield rest


def _read(name: str, start: Callable[[], ProxyResponse], put: Callable[[_Arrived], None]) -> None:
    """Put all that comes, and at last None or the error that ended it."""
    end: BaseException | None = None
    try:
        with closing(start()) as response:
            _check_stream(response)
            put(Accepted({"X-Endpoint": name}, name))
            for chunk in as_chunks(_lines(response)):
                put(chunk)
    except ProxyError as exc:
        end = exc
    # The request thread waits for an end, and would wait for ever without this one.
    except Exception as exc:  # noqa: BLE001
        end = ServerBug()
        end.__cause__ = exc
    put(end)


def _check_stream(response: ProxyResponse) -> None:
    """Raises a ProxyError for a response that is no event stream, or that begins with an error."""
    error = server_error(response)
    if error is not None:
        raise error
    if response.status < 300 and response.header("content-type").startswith("text/event-stream"):
        return
    message = refusal_of(response)
    # 404 and 405 are about the path, which another server may have.
    if 400 <= response.status < 500 and response.status not in (404, 405):
        raise InvalidRequest(message)
    raise UpstreamFailed(f"it answered with status {response.status}: {message}")
