"""Open Compute Framework nodes (OpenTela) as an upstream: models by peer, calls by service.

A node passes calls on to whichever peer serves the model. It differs from an OpenAI server in two
ways: its models are in GET /v1/dnt/table, and a failure may come as a 200 with a text. Calls go to
/v1/service/llm/v1/...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from horde_proxy.errors import Unavailable, UpstreamFailed
from horde_proxy.upstreams.disconnects import CallGuard
from horde_proxy.upstreams.openai.model_list import is_usable_id
from horde_proxy.upstreams.openai.upstream import OpenAIUpstream
from horde_proxy.upstreams.proxying import ProxyRequest, ProxyResponse

_SERVICE = "/v1/service/llm/v1"
_MODEL = "model="
"""What an identity group begins with that names a model: "model=Qwen/Qwen3-8B"."""
_FAILED = b"ERROR: "
"""What the body begins with when a peer failed; the status is 200 all the same."""
_ERROR = b'{"error"'
_NO_PROVIDER = b"No provider found"
"""In an error object: no connected peer serves the model. Another upstream may."""
_LONGEST_ERROR = 500
"""Bytes of a failure that are read: one line says what happened."""


class OCFUpstream(OpenAIUpstream):
    """One node."""

    kind = "ocf"

    @staticmethod
    def _api_base(url: str) -> str:
        return url.rstrip("/").removesuffix("/v1") + _SERVICE

    def proxy(
        self, call: ProxyRequest, model: str | None, guard: CallGuard | None = None
    ) -> ProxyResponse:
        """As OpenAIUpstream.proxy. Raises UpstreamFailed or Unavailable for a failure in a body."""
        response = super().proxy(call, model, guard)
        try:
            _check(response)
        except BaseException:
            response.close()
            raise
        return response

    def _list(self) -> list[dict[str, Any]]:
        node = self._base.removesuffix(_SERVICE)
        return models_of(self._document(self._get(f"{node}/v1/dnt/table")))


def _check(response: ProxyResponse) -> None:
    """Raises for a body that is a failure. Event streams begin otherwise, and are not held up."""
    # One byte first: waiting for more would hold up a stream that begins slowly.
    first = response.head(1)
    if first == b"E" and response.head(len(_FAILED)) == _FAILED:
        raise UpstreamFailed("its peer failed: " + _first_line(response))
    if first == b"{" and response.head(len(_ERROR)) == _ERROR:
        if _NO_PROVIDER in response.head(_LONGEST_ERROR):
            raise Unavailable("no peer serves the model now", code="no_provider")


def models_of(table: Any) -> list[dict[str, Any]]:
    """OpenAI's model objects for a node's table, by name, with the number of connected peers.

    The table may be a map or an array of peers. Raises UpstreamFailed for anything else.
    """
    peers = table.values() if isinstance(table, Mapping) else table
    if isinstance(peers, str) or not hasattr(peers, "__iter__"):
        raise UpstreamFailed("its table is neither a map nor an array of peers")
    counts: dict[str, int] = {}
    for peer in peers:
        for name in set(_models_of_peer(peer)):
            counts[name] = counts.get(name, 0) + 1
    return [
        {"id": name, "object": "model", "created": 0, "owned_by": "ocf", "ocf": {"peers": count}}
        for name, count in sorted(counts.items())
    ]


def _models_of_peer(peer: Any) -> Iterator[str]:
    """The models of {"connected", "service": [{"identity_group": ["model=...", ...]}, ...]}."""
    if not isinstance(peer, Mapping) or peer.get("connected") is False:
        return
    for service in _list_of(peer.get("service")):
        if isinstance(service, Mapping):
            for entry in _list_of(service.get("identity_group")):
                yield from _model_in(entry)


def _model_in(entry: Any) -> Iterator[str]:
    """The model that an identity group names, if any; "model=*" and "all" name none."""
    if isinstance(entry, str) and entry.startswith(_MODEL):
        name = entry.removeprefix(_MODEL).strip()
        if name != "*" and is_usable_id(name):
            yield name


def _list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _first_line(response: ProxyResponse) -> str:
    """What a node says of a failure, on one line and not too long."""
    text = response.head(_LONGEST_ERROR).decode("utf-8", "replace").removeprefix("ERROR: ")
    return " ".join(text.split())
