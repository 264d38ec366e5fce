"""KoboldCpp, and other servers with KoboldAI's API."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import requests

from horde_proxy.protocol.models import ModelFacts, tokens
from horde_proxy.worker.backends.base import BackendError, Payload
from horde_proxy.worker.backends.offered_model import ServerModel
from horde_proxy.worker.backends.server import ModelServer, get, text_at


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
            raise BackendError(f"the KoboldCpp at {url} has no text model loaded")
        # The first is what its owner grants to a horde, the second what it was started with.
        context = tokens(get(session, f"{url}/api/v1/config/max_context_length", "value"))
        length = tokens(get(session, f"{url}/api/v1/config/max_length", "value"))
        if not context:
            context = tokens(get(session, f"{url}/api/extra/true_max_context_length", "value"))
        facts = ModelFacts(context=context, max_output=length, outputs=("text",), is_loaded=True)
        return (ServerModel(name, facts),)

    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        return text_at(self.post("/api/v1/generate", dict(payload)), "results", 0, "text")
