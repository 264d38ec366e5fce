"""What is logged of each request: one line, without prompts and keys."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from horde_proxy.api.in_flight import has_text
from horde_proxy.errors import ClientGone, ProxyError
from horde_proxy.numbers import finite
from horde_proxy.upstreams.base import Accepted, Spent, StreamItem

_NOT_LOGGED = frozenset({"account", "asked", "first_text", "is_paid", "spent"})
_PLAIN = re.compile(r"[\w./:@+-]+")
log = logging.getLogger("horde_proxy.requests")


@dataclass
class RequestLog:
    """One request. Times are seconds; `key` is the name of the client's key.

    `account` is whom it is counted for, None where it is not counted. `asked` is the name of
    the model that was asked for, `model` of the one that serves.
    """

    id: str
    method: str
    path: str
    client: str
    status: int = 0
    seconds: float = 0.0
    model: str | None = None
    asked: str | None = None
    upstream: str | None = None
    horde_request: str | None = None
    first_text: float | None = None
    waited: float | None = None
    generated: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    kudos: float | None = None
    key: str | None = None
    account: str | None = None
    error: str | None = None
    spent: Callable[[], Spent] = Spent
    is_paid: bool = False

    def follow(
        self, items: Iterator[StreamItem], clock: Callable[[], float] = time.monotonic
    ) -> Iterator[StreamItem]:
        """The items, with what they tell of the request written down."""
        began = clock()
        try:
            for item in items:
                self._note(item)
                if self.first_text is None and isinstance(item, dict) and has_text(item):
                    self.first_text = round(clock() - began, 3)
                yield item
        except ProxyError as exc:
            self.error = exc.code or exc.type
            raise
        except GeneratorExit:
            self.error = self.error or ClientGone.code
            raise
        finally:
            if self.completion_tokens is None:
                self._settle(items)

    def use(self, usage: tuple[int, int] | None, asked: int, events: int) -> None:
        """Note the tokens that a relayed answer tells; where a stream tells none, about as many
        as were asked, and one for each event."""
        about = (asked or None, events) if events else (None, None)
        self.prompt_tokens, self.completion_tokens = usage or about

    def write(self, began: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Log the record; its fields are attached for other formats."""
        self.seconds = round(clock() - began, 3)
        fields = {
            name: value
            for name, value in vars(self).items()
            if value is not None and name not in _NOT_LOGGED
        }
        log.info(as_text(fields), extra={"fields": fields})

    def _settle(self, items: Iterator[StreamItem]) -> None:
        """Count what was generated for an answer that ended before it told its usage."""
        close = getattr(items, "close", None)
        if close:
            close()
        spent = self.spent()
        if spent.completion_tokens:
            self.prompt_tokens, self.completion_tokens, kudos = spent
            self.kudos = round(kudos, 2)

    def _note(self, item: StreamItem) -> None:
        if isinstance(item, Accepted):
            self.horde_request = item.headers.get("X-Horde-Request-Id")
            self.model = item.headers.get("X-Horde-Model")
            self.upstream, self.spent, self.is_paid = item.upstream, item.spent, item.is_paid
        elif isinstance(item, dict) and item.get("usage") and not self.is_paid:
            self.prompt_tokens = item["usage"]["prompt_tokens"]
            self.completion_tokens = item["usage"]["completion_tokens"]
            horde = item.get("horde")
            self.waited = _amount(horde, "queue_seconds")
            self.generated = _amount(horde, "generation_seconds")
            self.kudos = _amount(horde, "kudos")


def _amount(told: object, name: str) -> float | None:
    """A number that can be added up; an endpoint may have told anything."""
    return finite(told.get(name)) if isinstance(told, dict) else None


def as_text(fields: dict[str, object]) -> str:
    """METHOD PATH STATUS name=value ..., values with spaces and the like in quotes."""
    first = " ".join(_quoted(fields[name]) for name in ("method", "path", "status"))
    rest = [
        f"{name}={_quoted(value)}"
        for name, value in fields.items()
        if name not in ("method", "path", "status")
    ]
    return " ".join([first, *rest])


def _quoted(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
