"""A relayed stream of events as chunks, for an answer that began at another kind of upstream.

A thread reads, so that whoever waits can look at the client and the clock meanwhile.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

from horde_proxy.errors import (
    InvalidRequest,
    ProxyError,
    RateLimited,
    ServerBug,
    UpstreamContextExceeded,
    UpstreamFailed,
)
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.usage import usage_of
from horde_proxy.upstreams.base import Accepted, StreamItem, Waiting
from horde_proxy.upstreams.openai.errors import error_of, fault_of, message_of, overflow_of
from horde_proxy.upstreams.proxying import ProxyResponse

SLICE = 0.9
_Arrived = Accepted | Chunk | BaseException | None


def chunks(
    name: str, start: Callable[[], ProxyResponse], stop: Callable[[], object]
) -> Iterator[StreamItem]:
    """Accepted, Waitings and chunks of the stream that `start` begins and `stop` breaks off."""
    arrived: SimpleQueue[_Arrived] = SimpleQueue()
    threading.Thread(target=_read, args=(name, start, arrived.put), daemon=True).start()
    try:
        while True:
            try:
                item = arrived.get(timeout=SLICE)
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


def as_chunks(lines: Iterable[bytes]) -> Iterator[Chunk]:
    """The chunks in an event stream's lines: a role first, the usage last and by itself.

    Raises UpstreamFailed for an error event. Servers differ in where they put role and usage.
    """
    begun: set[int] = set()
    usage: Chunk | None = None
    for event in _events(lines):
        if event.get("usage"):
            usage = {**event, "choices": [], "usage": usage_of(event["usage"])}
        for choice in event.get("choices") or ():
            yield from _choice(event, choice, begun)
    if usage is not None:
        yield usage


def _choice(event: Chunk, choice: dict[str, Any], begun: set[int]) -> Iterator[Chunk]:
    index = choice.get("index") or 0
    delta = dict(choice.get("delta") or {"content": choice.get("text")})
    delta.pop("role", None)
    parts = [{"delta": delta, "finish_reason": choice.get("finish_reason")}]
    if index not in begun:
        begun.add(index)
        role = {"role": "assistant", "content": "", "refusal": None}
        parts.insert(0, {"delta": role, "finish_reason": None})
    head = {key: value for key, value in event.items() if key != "usage"}
    for part in parts:
        yield {**head, "choices": [{"index": index, "logprobs": None, **part}]}


def _events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        if line.startswith(b"data:") and data:
            try:
                event = json.loads(data)
            except ValueError as exc:
                raise UpstreamFailed("it sent an event that is not JSON") from exc
            if not isinstance(event, dict) or "error" in event:
                error = event.get("error") if isinstance(event, dict) else None
                raise UpstreamFailed("it broke the answer off: " + message_of(error))
            yield event


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    yield rest


def _read(name: str, start: Callable[[], ProxyResponse], put: Callable[[_Arrived], None]) -> None:
    end: BaseException | None = None
    try:
        relayed = start()
        try:
            _refuse(relayed)
            put(Accepted({"X-Endpoint": name}, name))
            for chunk in as_chunks(_lines(relayed)):
                put(chunk)
        finally:
            relayed.close()
    except ProxyError as exc:
        end = exc
    # The thread that waits for this one has to learn of it, whatever it is.
    except Exception as exc:  # noqa: BLE001
        end = ServerBug()
        end.__cause__ = exc
    put(end)


def _refuse(relayed: ProxyResponse) -> None:
    """Raises for an answer that is no stream."""
    if relayed.status < 300 and relayed.header("content-type").startswith("text/event-stream"):
        return
    fault = fault_of(relayed) or overflow_of(relayed)
    if isinstance(fault, RateLimited | UpstreamContextExceeded):
        raise fault
    message = message_of(error_of(relayed))
    if 400 <= relayed.status < 500 and relayed.status != 408:
        raise InvalidRequest(message)
    raise UpstreamFailed(f"it answered with status {relayed.status}: {message}")
