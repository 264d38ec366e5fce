"""What is logged of each request: one line with names, ids and seconds; no prompts, no keys."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from horde_proxy.errors import ClientGone, ProxyError
from horde_proxy.logs import LONGEST_FIELD
from horde_proxy.numbers import finite
from horde_proxy.printable import ascii_json, shortened
from horde_proxy.protocol.chunks import Chunk, has_text
from horde_proxy.protocol.usage import cached_of
from horde_proxy.upstreams.base import Accepted, LateKudos, Spent, StreamItem

# Fields for counting and for the page, which say nothing in a log.
_NOT_LOGGED = frozenset(
    {
        "account",
        "answer_id",
        "cached_tokens",
        "cost",
        "failed_at",
        "finish_reason",
        "first_text",
        "horde",
        "is_paid",
        "late_kudos",
        "requested",
        "spent",
    }
)
# What needs no quotes in a log line: paths, names of models, ids, e.g. "koboldcpp/Big-12B".
_PLAIN = re.compile(r"[\w./:@+-]+")
_LONGEST_PATH = 300
"""Characters of a path that are shown; a stranger may send one of 64 kB."""
# The key in "/api/v2/sharedkeys/98415ddd-...". SillyTavern sends its own account's key
# here, to learn whether it is a shared key.
_KEY_IN_PATH = re.compile(r"(?<=/sharedkeys/)[^/]+")
log = logging.getLogger("horde_proxy.requests")


@dataclass
class RequestLog:
    """One request. Times are seconds; `key` is the name of the client's key.

    `account` is what it is counted for, or None. `requested` is the model that the client named,
    `model` the one that answered. `cached_tokens` are those of the prompt that were in the server's
    cache, as far as it says so. `failed_at` has the endpoint and the model of each attempt that
    failed. `answer_id` is the id by which the client knows the answer, `horde` its `horde` object,
    `cost` what an endpoint said that it costs (USD).
    """

    id: str
    method: str
    path: str
    client: str
    status: int = 0
    seconds: float = 0.0
    model: str | None = None
    requested: str | None = None
    upstream: str | None = None
    horde_request: str | None = None
    first_text: float | None = None
    waited: float | None = None
    generated: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    kudos: float | None = None
    images: int | None = None
    key: str | None = None
    account: str | None = None
    error: str | None = None
    failed_at: list[tuple[str, str]] = field(default_factory=list)
    spent: Callable[[], Spent] = Spent
    is_paid: bool = False
    late_kudos: LateKudos | None = None
    answer_id: str | None = None
    finish_reason: str | None = None
    horde: object = None
    cost: float | None = None
    _clock: Callable[[], float] = time.monotonic
    _began: float = 0.0

    @contextmanager
    def recording(self, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
        """A context around an answer, whose items are given to note(); its end settles the cost."""
        self._clock, self._began = clock, clock()
        try:
            yield
        except ProxyError as exc:
            self.error = exc.code or exc.type
            raise
        except GeneratorExit:
            self.error = self.error or ClientGone.code
            raise
        finally:
            if self.completion_tokens is None:
                self._settle()

    def note(self, item: StreamItem) -> None:
        """Write down what an item of the answer says of the request."""
        if isinstance(item, Accepted):
            self.horde_request = item.headers.get("X-Horde-Request-Id")
            self.model = item.headers.get("X-Horde-Model") or item.model
            self.upstream, self.spent, self.is_paid = item.upstream, item.spent, item.is_paid
            self.late_kudos = item.late_kudos
        elif isinstance(item, dict):
            self._note_facts(item)
            if self.first_text is None and has_text(item):
                self.first_text = round(self._clock() - self._began, 3)
            pictures = _picture_count(item)
            if pictures and not self.is_paid:
                self.images = (self.images or 0) + pictures
            if item.get("usage") and not self.is_paid:
                self._note_usage(item)

    def _note_facts(self, chunk: Chunk) -> None:
        """Write down what GET /generation says of the answer."""
        self.answer_id = self.answer_id or chunk["id"]
        self.horde = chunk.get("horde") or self.horde
        for choice in chunk["choices"]:
            self.finish_reason = self.finish_reason or choice.get("finish_reason")

    def note_tokens(self, prompt: int, completion: int) -> None:
        """Note the tokens of a proxied answer; zeros say that nothing is known of them."""
        if prompt or completion:
            self.prompt_tokens, self.completion_tokens = prompt, completion

    def note_failure(self, endpoint: str, model: str) -> None:
        """Note that an endpoint failed this request; another one may answer it yet."""
        self.failed_at.append((endpoint, model))

    def write(self, began: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Log the record; its fields are attached for other formats."""
        self.seconds = round(clock() - began, 3)
        fields = {
            name: shortened(value, LONGEST_FIELD) if isinstance(value, str) else value
            for name, value in vars(self).items()
            if value is not None and name not in _NOT_LOGGED and name[0] != "_"
        }
        log.info(as_text(fields), extra={"fields": fields})

    def _settle(self) -> None:
        """Count what was generated for an answer that ended before its usage came."""
        spent = self.spent()
        # Pictures have no tokens.
        if spent.completion_tokens or spent.kudos:
            self.prompt_tokens, self.completion_tokens, kudos = spent
            self.kudos = round(kudos, 2)

    def _note_usage(self, chunk: Chunk) -> None:
        usage, horde = chunk["usage"], chunk.get("horde")
        self.prompt_tokens = usage["prompt_tokens"]
        self.completion_tokens = usage["completion_tokens"]
        self.cached_tokens = cached_of(usage)
        if horde is not None and not self.cached_tokens:
            # A horde's usage has OpenAI's 0 also where no worker said what its server had read.
            self.cached_tokens = None
        self.waited = _amount(horde, "queue_seconds")
        self.generated = _amount(horde, "generation_seconds")
        self.kudos = _amount(horde, "kudos")


def _picture_count(chunk: Chunk) -> int:
    """How many pictures a chunk brings: as its choices, or as links in the text of a chat."""
    # The usage, which has no choices, names all of them again.
    linked = (chunk.get("horde") or {}).get("images", ()) if chunk["choices"] else ()
    return sum("picture" in choice["delta"] for choice in chunk["choices"]) + len(linked)


def _amount(horde: object, name: str) -> float | None:
    """A number of a `horde` object that can be added up; an endpoint may have sent anything."""
    return finite(horde.get(name)) if isinstance(horde, dict) else None


def shown_path(path: str) -> str:
    """A path as logs and errors show it: without keys, and cut to a line."""
    path = _KEY_IN_PATH.sub("...", path)
    return path if len(path) <= _LONGEST_PATH else f"{path[: _LONGEST_PATH - 3]}..."


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
    return text if _PLAIN.fullmatch(text) else ascii_json(text)
