"""The base of model servers that know their model's chat template: they write the answers of chats.

    chat() -> chat_events() of the kind of server -> call() -> transcript lines

What a server cannot do is learned from its refusals: a field that it does not know is left out from
then on, and a server without chats, templates or tools is offered for no chat for a while. Job
threads share what was learned.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import requests

from horde_proxy.aihorde.transcript import AGAIN
from horde_proxy.errors import UpstreamFailed
from horde_proxy.response_body import with_body
from horde_proxy.upstreams.openai.error_signs import (
    NO_MODEL,
    NO_PATH,
    OVERFLOW,
    OVERFLOW_STATUSES,
)
from horde_proxy.upstreams.openai.events import Event, events
from horde_proxy.worker.backends.base import (
    BackendDown,
    BackendError,
    BackendOptions,
    ChatUnsupported,
    ContextExceeded,
    JobRefused,
    Payload,
)
from horde_proxy.worker.backends.chats import (
    BegunAnswer,
    begins_anew,
    begun_answer,
    is_to_fetch,
    request_fields,
    transcript_lines,
)
from horde_proxy.worker.backends.http_server import MOST_NAMES, NoSuchRoute
from horde_proxy.worker.backends.offered_model import ServerModel
from horde_proxy.worker.backends.samplers import Dialect
from horde_proxy.worker.backends.server import ModelServer, ReadEvents

_LONGEST_REFUSAL = 100_000
"""Bytes of a refusal. FastAPI repeats the value of each field that it does not take."""
_MOST_REFUSALS = 3
"""Chats in a row that a server refuses before it gets no more for a while. Templates that know no
system role (Gemma 2) refuse most of them."""
_REFUSED_SECONDS = 600.0
"""How long it gets none then. After that, each refusal counts at once: these are nine jobs an hour,
and a horde stops a worker that fails more than 20."""
_LACKING_SECONDS = 3600.0
"""How long a server without chats gets none: perhaps it is started anew with a template."""
_MOST_TRIES = 5
"""Calls of one chat. Each but the last was refused for fields that the next leaves out."""

# vLLM: "default chat template is no longer allowed, so you must provide a chat template"; its older
# and SGLang's "does not support Chat Completions API". TabbyAPI: "Chat completions are disabled
# because a prompt template is not set." Ollama: '"all-minilm" does not support chat'. Others: "no
# chat template".
_NO_TEMPLATE = re.compile(
    r"chat template is (?:no longer allowed|not (?:set|defined|found|available))"
    r"|(?:no|without a|provide a|not (?:have|define) a) (?:chat|prompt) template"
    r"|prompt template is not set|not support chat",
    re.IGNORECASE,
)
# llama.cpp: "tools param requires --jinja flag". vLLM: '"auto" tool choice requires
# --enable-auto-tool-choice and --tool-call-parser to be set'. Ollama: '"m" does not support tools'.
_NO_TOOLS = re.compile(
    r"requires --jinja|requires --enable-auto-tool-choice|requires --tool-call-parser"
    r"|not support tools",
    re.IGNORECASE,
)
# FastAPI (Mistral, older vLLM): "extra_forbidden", "Extra inputs are not permitted". OpenAI:
# "Unrecognized request argument supplied: top_k", "Unknown parameter: 'min_p'.",
# "Unsupported parameter: 'logprobs' ...". Groq: "property 'min_p' is unsupported". JSON schemas:
# "Additional properties are not allowed".
_UNKNOWN_FIELD = re.compile(
    r"extra_forbidden|extra (?:inputs|fields) (?:are )?not permitted|unrecogni[sz]ed"
    r"|unknown (?:parameter|field|argument|name)|unsupported|not supported"
    r"|additional properties are not allowed|unexpected keyword",
    re.IGNORECASE,
)
_ESSENTIAL = frozenset(
    {"model", "messages", "stream", "tools", "tool_choice", "response_format", "format", "options"}
)
"""Without these the answer would be another one: such a job is refused."""
CONTEXT_EXCEEDED = "context_length_exceeded"
"""The reason by which the proxy knows that a chat is too long: OpenAI's code."""
NO_TOOLS = "the backend cannot call tools"
_NO_CHATS = "the backend has no chats"
_RENAMED = {"max_tokens": "max_completion_tokens"}
"""OpenAI's own server refuses the older name for models that reason."""

log = logging.getLogger(__name__)


class ChatServer(ModelServer):
    """A server that may chat. Whether it is offered for chats is the user's choice, or automatic.

    Where the user does not choose, `chats_by_default` decides, and whether the server calls tools:
    a chat may have some, and the prompt of a text describes them to any model. `lacks_tools` is
    True where it is known that it cannot.
    """

    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(
        self, url: str, session: requests.Session, model: ServerModel, options: BackendOptions
    ) -> None:
        super().__init__(url, session, model, options)
        self.lacks_tools = model.facts.tools is False and self.tells_tools(model, options)
        if options.chat is None:
            self._may_chat = not self.lacks_tools and self.chats_by_default()
        else:
            self._may_chat = options.chat
        # Guards what was learned from refusals: until when no chat is offered, how many there were
        # in a row, the reasons that were logged, and the names of fields. No I/O happens under it.
        self._learning = threading.Lock()
        self._rests_until, self._refusals = -math.inf, 0
        self._reasons: set[str] = set()
        self._refused: set[str] = set()

    def chats_by_default(self) -> bool:
        """Whether the server seems to know its model's template. May ask the server."""
        return True

    @classmethod
    def tells_tools(cls, model: ServerModel, options: BackendOptions) -> bool:
        """Whether such a server knows for sure that a model cannot call tools."""
        return False

    @property
    def can_chat(self) -> bool:
        """Whether chats are offered: False for a while after the server has refused them."""
        return self._may_chat and self.clock() >= self._rests_until

    def chat(self, payload: Payload, cancelled: Callable[[], bool]) -> Iterator[str]:
        """The lines of the transcript of a job's chat.

        A begun answer is continued where the server can; otherwise the first line says that the
        answer begins anew. Raises BackendError.
        """
        if is_to_fetch(payload):
            raise JobRefused("its chat has media to be fetched", "this worker fetches no media")
        begun = begun_answer(payload)
        if begun is None:
            yield from self._transcript(payload, cancelled)
            return
        if self.continues(begun, payload):
            try:
                yield from self._transcript(payload, cancelled)
                return
            # It comes before the first line. llama.cpp: "Assistant response prefill is incompatible
            # with enable_thinking."
            except JobRefused as exc:
                if begun.is_clients:
                    raise
                log.info("an answer begins anew: %s", exc)
        if begun.is_clients:
            raise JobRefused("it continues an answer", "the backend cannot continue an answer")
        is_first = True
        anew = begins_anew(payload, begun, self.max_length)
        for line in self._transcript(anew, cancelled):
            yield AGAIN + line if is_first else line
            is_first = False

    @abstractmethod
    def continues(self, begun: BegunAnswer, payload: Payload) -> bool:
        """Whether the server can go on with an answer that another one has begun.

        May ask the server.
        """

    @abstractmethod
    def chat_events(
        self, payload: Payload, cancelled: Callable[[], bool]
    ) -> Iterator[Event | None]:
        """The answer as the events of OpenAI's chunks. Raises BackendError."""

    def chat_body(self, payload: Payload, dialect: Dialect) -> dict[str, Any]:
        """OpenAI's body of a chat: what the chat sets comes before the horde's own sampling."""
        sampling = {
            name: value for name, value in self.translated(payload, dialect).items() if value != []
        }
        length = payload.get("max_length")
        return {
            **sampling,
            **request_fields(payload),
            "model": self.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"max_tokens": length} if length else {}),
        }

    def call(
        self,
        path: str,
        body: Mapping[str, Any],
        cancelled: Callable[[], bool],
        read: ReadEvents = events,
    ) -> Iterator[Event | None]:
        """The events that the server answers a chat with, without the fields that it refuses.

        Raises BackendError.
        """
        refused: set[str] = set()
        for _ in range(_MOST_TRIES):
            sent = self._without_refused(body, refused)
            check = partial(self._check, sent)
            try:
                for event in self.events(path, sent, cancelled, read=read, check=check):
                    # Only an answer shows that they were at fault: a refusal repeats what a client
                    # wrote, as well.
                    self._leave_out(refused)
                    yield event
                return
            # No event has come then.
            except _FieldsRefused as exc:
                refused.update(exc.names)
        message = f"the backend at {self.shown_url} refuses field after field of a chat"
        raise JobRefused(message, "the backend refuses the fields of the chat")

    def _transcript(self, payload: Payload, cancelled: Callable[[], bool]) -> Iterator[str]:
        has_begun = False
        try:
            for line in transcript_lines(self.chat_events(payload, cancelled)):
                yield line
                has_begun = True
        except UpstreamFailed as exc:
            raise BackendError(f"the backend at {self.shown_url} sent no text: {exc}") from exc
        except BackendError as exc:
            error = exc if has_begun or cancelled() else _explained(exc)
            if isinstance(error, ChatUnsupported):
                self._stop_chatting(str(error), _LACKING_SECONDS)
            elif not (has_begun or cancelled() or isinstance(error, BackendDown | ContextExceeded)):
                self._note_refusal()
            if error is exc:
                raise
            raise error from exc
        self._note_success()

    def _check(self, body: Mapping[str, Any], response: requests.Response) -> None:
        """Raises BackendError for an error's status, by what the server says."""
        if response.ok:
            return
        words, status = _words_of(response), response.status_code
        if status in OVERFLOW_STATUSES and OVERFLOW.search(words):
            raise ContextExceeded("the chat is too long for the model", CONTEXT_EXCEEDED)
        if reason := _lacks(words):
            raise ChatUnsupported(reason, reason)
        if status in (400, 422) and (names := _fields_in(words, body)):
            raise _FieldsRefused(names)
        try:
            self.check_status(response)
        except NoSuchRoute as exc:
            if NO_MODEL.search(words):
                raise
            raise ChatUnsupported(_NO_CHATS, _NO_CHATS) from exc

    def _note_refusal(self) -> None:
        with self._learning:
            self._refusals += 1
            is_last = self._refusals >= _MOST_REFUSALS
        if is_last:
            self._stop_chatting("it refuses chat after chat", _REFUSED_SECONDS)

    def _note_success(self) -> None:
        with self._learning:
            self._refusals = 0

    def _stop_chatting(self, reason: str, seconds: float) -> None:
        with self._learning:
            self._rests_until = self.clock() + seconds
            is_news = reason not in self._reasons
            self._reasons.add(reason)
        if is_news:
            minutes = round(seconds / 60)
            log.warning(
                "the backend at %s gets no chats for %d minutes, each time: %s",
                self.shown_url,
                minutes,
                reason,
            )

    def _leave_out(self, names: Iterable[str]) -> None:
        with self._learning:
            new = sorted(set(names) - self._refused)[: MOST_NAMES - len(self._refused)]
            self._refused.update(new)
        for name in new:
            instead = f"sent as {_RENAMED[name]}" if name in _RENAMED else "left out"
            log.warning("the backend at %s refuses %s: it is %s", self.shown_url, name, instead)

    def _without_refused(self, body: Mapping[str, Any], more: set[str]) -> dict[str, Any]:
        with self._learning:
            refused = self._refused | more
        sent = {name: value for name, value in body.items() if name not in refused}
        for name in refused & _RENAMED.keys() & body.keys():
            sent[_RENAMED[name]] = body[name]
        return sent


class _FieldsRefused(BackendError):
    """The server does not take these fields of a body."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__("it refuses fields")
        self.names = names


def _explained(error: BackendError) -> BackendError:
    """What the first event of an answer means, where it is an error: the status was a success's.

    LM Studio refuses a path that it does not know like this.
    """
    if isinstance(error, JobRefused | ChatUnsupported):
        return error
    if OVERFLOW.search(str(error)):
        return ContextExceeded(str(error), CONTEXT_EXCEEDED)
    reason = _lacks(str(error))
    return ChatUnsupported(reason, reason) if reason else error


def _lacks(words: str) -> str:
    """What a server that refuses a chat lacks, as a sentence; "" for another reason."""
    if NO_PATH.search(words):
        return _NO_CHATS
    if _NO_TEMPLATE.search(words):
        return "the backend has no chat template"
    return NO_TOOLS if _NO_TOOLS.search(words) else ""


def _words_of(response: requests.Response) -> str:
    """The body of a refusal; "" where it cannot be read."""
    try:
        return with_body(response, _LONGEST_REFUSAL).text
    except requests.RequestException:
        return ""


def _fields_in(words: str, body: Mapping[str, Any]) -> list[str]:
    """The fields of a body that a refusal names as unknown, but for the essential ones.

    A name that is an English word, too, must be quoted or come after a colon: "supplied: stop".
    """
    if not _UNKNOWN_FIELD.search(words):
        return []
    return [
        name
        for name in body.keys() - _ESSENTIAL
        if re.search((r"(?<!\w)" if "_" in name else r"(?:['\"`]|: )") + name + r"(?!\w)", words)
    ]
