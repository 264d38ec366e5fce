"""KoboldCpp, and other servers with KoboldAI's API."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import requests

from horde_proxy.printable import without_login
from horde_proxy.protocol.models import ModelFacts, tokens
from horde_proxy.upstreams.openai.events import Event
from horde_proxy.worker.backends.base import BackendError, BackendOptions, Payload, ServerState
from horde_proxy.worker.backends.chat_server import ChatServer
from horde_proxy.worker.backends.chats import BegunAnswer
from horde_proxy.worker.backends.http_server import NoSuchRoute, get, text_at
from horde_proxy.worker.backends.offered_model import ServerModel
from horde_proxy.worker.backends.samplers import KOBOLDCPP_CHAT
from horde_proxy.worker.backends.server_state import Read, kobold_state

_KOBOLDCPP = "koboldcpp/"
"""How KoboldCpp begins its models' names. KoboldAI refuses fields that it does not know."""


log = logging.getLogger(__name__)


class KoboldServer(ChatServer):
    """POST /api/v1/generate, and KoboldCpp's /api/extra/generate/stream.

    The payload is sent unchanged: the horde uses KoboldAI's names. KoboldCpp fills in placeholders
    itself.
    """

    label = "KoboldAI"

    def __init__(
        self, url: str, session: requests.Session, model: ServerModel, options: BackendOptions
    ) -> None:
        super().__init__(url, session, model, options)
        # Job threads set it to False: a KoboldCpp of 2023 answers with status 404.
        self._streams = self.model.startswith(_KOBOLDCPP)

    @classmethod
    def probe(cls, url: str, session: requests.Session) -> Sequence[ServerModel]:
        name = get(session, f"{url}/api/v1/model", "result")
        if not isinstance(name, str) or not name:
            return ()
        # KoboldCpp's name for no model, as when it only draws.
        if name.rpartition("/")[2] == "inactive":
            raise BackendError(f"the KoboldCpp at {without_login(url)} has no text model loaded")
        # The first is what its owner grants to a horde, the second what it was started with.
        context = tokens(get(session, f"{url}/api/v1/config/max_context_length", "value"))
        length = tokens(get(session, f"{url}/api/v1/config/max_length", "value"))
        if not context:
            context = tokens(get(session, f"{url}/api/extra/true_max_context_length", "value"))
        facts = ModelFacts(context=context, max_output=length, outputs=("text",), is_loaded=True)
        return (ServerModel(name, facts),)

    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        with self._abortable(payload, cancelled) as body:
            answer = self.post("/api/v1/generate", body, cancelled)
        return text_at(answer, "results", 0, "text")

    def stream(self, payload: Payload, cancelled: Callable[[], bool]) -> Iterator[str]:
        """As `generate`, a token at a time. KoboldAI does not stream."""
        if self._streams:
            try:
                yield from self._tokens(payload, cancelled)
                return
            except NoSuchRoute:
                log.warning("the backend at %s does not stream", self.shown_url)
                self._streams = False
        yield self.generate(payload, cancelled)

    def _tokens(self, payload: Payload, cancelled: Callable[[], bool]) -> Iterator[str]:
        is_whole = True
        with self._abortable(payload, cancelled) as body:
            for event in self.events("/api/extra/generate/stream", body, cancelled):
                yield text_at(event, "token")
                # {"token": " upon", "finish_reason": null}, and at last "stop" or "length". Where
                # no event has a reason, as in older versions, the stream's end is the text's.
                is_whole = bool(event.get("finish_reason", True)) if event else is_whole
        if not is_whole:
            raise self.broken_off()

    def chats_by_default(self) -> bool:
        """False: it uses the model's template only with --jinja, which it does not tell."""
        return False

    def continues(self, begun: BegunAnswer, payload: Payload) -> bool:
        return False

    def chat_events(
        self, payload: Payload, cancelled: Callable[[], bool]
    ) -> Iterator[Event | None]:
        """The events of KoboldCpp's POST /v1/chat/completions, which reads its own samplers."""
        sent = self.chat_body(payload, KOBOLDCPP_CHAT)
        # In a message, a placeholder is text: KoboldCpp would open a turn there by default.
        sent["replace_instruct_placeholders"] = False
        with self._abortable(sent, cancelled) as body:
            yield from self.call("/v1/chat/completions", body, cancelled)

    @contextmanager
    def _abortable(
        self, payload: Payload, cancelled: Callable[[], bool]
    ) -> Iterator[Mapping[str, Any]]:
        """The body for a payload, whose generation KoboldCpp ends once it is not needed."""
        body = dict(payload)
        if self.model.startswith(_KOBOLDCPP):
            body["genkey"] = f"KCPP{uuid.uuid4().hex[:8]}"
        try:
            yield body
        finally:
            # KoboldCpp goes on when its client hangs up; a key aborts one client's generation only.
            if cancelled() and "genkey" in body:
                get(self._session, f"{self.url}/api/extra/abort", body={"genkey": body["genkey"]})

    def current_state(self, read: Read) -> ServerState | None:
        return kobold_state(read)

    def slots(self) -> int | None:
        """One: KoboldCpp queues what comes meanwhile."""
        return 1
