"""KoboldCpp, and other servers with KoboldAI's API."""

from __future__ import annotations

from collections.abc import Callable

import requests

from horde_proxy.numbers import finite
from horde_proxy.worker.backends.base import Payload
from horde_proxy.worker.backends.server import ModelServer, ServerModel, get, text_at


class KoboldServer(ModelServer):
    """POST /api/v1/generate. The payload is sent unchanged: the horde uses KoboldAI's names.

    KoboldCpp fills in placeholders itself.
    """

    @classmethod
    def probe(cls, url: str, session: requests.Session) -> ServerModel | None:
        name = get(session, f"{url}/api/v1/model", "result")
        if not isinstance(name, str):
            return None
        length = get(session, f"{url}/api/v1/config/max_length", "value")
        context = get(session, f"{url}/api/v1/config/max_context_length", "value")
        return ServerModel(name, int(finite(length) or 512), int(finite(context) or 4096))

    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        return text_at(self.post("/api/v1/generate", dict(payload)), "results", 0, "text")
