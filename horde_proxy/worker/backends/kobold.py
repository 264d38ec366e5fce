"""KoboldCpp, and other servers with KoboldAI's API."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

import requests

from horde_proxy.printable import without_login
from horde_proxy.protocol.models import ModelFacts, tokens
from horde_proxy.worker.backends.base import BackendError, Payload, ServerState
from horde_proxy.worker.backends.offered_model import ServerModel
from horde_proxy.worker.backends.server import ModelServer, get, text_at
from horde_proxy.worker.backends.server_state import Read, kobold_state

_KOBOLDCPP = "koboldcpp/"
"""How KoboldCpp begins its models' names. KoboldAI refuses fields that it does not know."""


class KoboldServer(ModelServer):
    """POST /api/v1/generate. The payload is sent unchanged: the horde uses KoboldAI's names.

    KoboldCpp fills in placeholders itself.
    """

    label = "KoboldAI"

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
        body = dict(payload)
        if self.model.startswith(_KOBOLDCPP):
            body["genkey"] = f"KCPP{uuid.uuid4().hex[:8]}"
        try:
            answer = self.post("/api/v1/generate", body, cancelled)
        finally:
            # KoboldCpp goes on when its client hangs up; a key aborts one client's generation only.
            if cancelled() and "genkey" in body:
                get(self._session, f"{self.url}/api/extra/abort", body={"genkey": body["genkey"]})
        return text_at(answer, "results", 0, "text")

    def current_state(self, read: Read) -> ServerState | None:
        return kobold_state(read)

    def slots(self) -> int | None:
        """One: KoboldCpp queues what comes meanwhile."""
        return 1
