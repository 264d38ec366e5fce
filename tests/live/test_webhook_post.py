"""The calls of webhooks over real connections."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

from horde_proxy.upstreams.webhook_post import WebhookPost


class _Hook(BaseHTTPRequestHandler):
    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        status = 302 if self.path == "/redirect" else 204
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def test_a_loopback_address_is_called_only_where_private_ones_are_allowed() -> None:
    server = HTTPServer(("127.0.0.1", 0), _Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        reason = "its address is not public (private_horde.webhooks)"
        assert WebhookPost()(url, b"{}", {}) == reason
        assert WebhookPost()(url.replace("127.0.0.1", "localhost"), b"{}", {}) == reason
        named = WebhookPost(setting="webhooks.private")(url, b"{}", {})
        assert named == "its address is not public (webhooks.private)"
        assert _Hook.bodies == []
        assert WebhookPost(private=True)(f"{url}/hook", b"{}", {}) is None
        assert WebhookPost(private=True)(f"{url}/redirect", b"{}", {}) == "it answered 302"
        assert _Hook.bodies == [b"{}", b"{}"]
    finally:
        server.shutdown()
        server.server_close()
