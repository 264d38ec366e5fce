"""Open Compute Framework nodes (OpenTela) as an upstream: models by peer, calls by service.

Source: GET /v1/dnt/table and POST /v1/service/llm/v1/... of a node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from horde_proxy.errors import Unavailable, UpstreamFailed
from horde_proxy.upstreams.disconnects import CallGuard
from horde_proxy.upstreams.openai.upstream import OpenAIUpstream
from horde_proxy.upstreams.proxying import ProxyRequest, ProxyResponse

_MODEL = "model="
_FAILED = b"ERROR: "
_ERROR = b'{"error"'
_NO_PROVIDER = b"No provider found"
_LONGEST_ERROR = 500


class OCFUpstream(OpenAIUpstream):
    """One node, which passes calls on to whichever peer serves the model."""

    kind = "ocf"

    @staticmethod
    def _calls(url: str) -> str:
        return f"{_node(url)}/v1/service/llm/v1"

    def proxy(
        self, call: ProxyRequest, model: str | None, watch: CallGuard | None = None
    ) -> ProxyResponse:
        """As its parent, but failures that come as an answer are told from answers."""
        relayed = super().proxy(call, model, watch)
        try:
            self._check(relayed)
        except BaseException:
            relayed.close()
            raise
        return relayed

    def _check(self, relayed: ProxyResponse) -> None:
        """A stream is not held up by this: it begins with neither sign."""
        first = relayed.head(1)
        if first == b"E" and relayed.head(len(_FAILED)) == _FAILED:
            raise UpstreamFailed("its peer failed: " + _line(relayed))
        if first == b"{" and relayed.head(len(_ERROR)) == _ERROR:
            if _NO_PROVIDER in relayed.head(_LONGEST_ERROR):
                raise Unavailable("no peer serves the model now", code="no_provider")

    def _list(self) -> list[dict[str, Any]]:
        base = self._base.removesuffix("/v1/service/llm/v1")
        return models_of(self._document(self._got(f"{base}/v1/dnt/table")))


def models_of(table: Any) -> list[dict[str, Any]]:
    """OpenAI's model objects for a node's table, a map or an array of peers; by name.

    Each tells how many peers that are connected serve it. Raises UpstreamFailed.
    """
    peers = table.values() if isinstance(table, Mapping) else table
    if isinstance(peers, str) or not hasattr(peers, "__iter__"):
        raise UpstreamFailed("its table is neither a map nor an array of peers")
    counts: dict[str, int] = {}
    for peer in peers:
        for name in set(_served(peer)):
            counts[name] = counts.get(name, 0) + 1
    return [
        {"id": name, "object": "model", "created": 0, "owned_by": "ocf", "ocf": {"peers": count}}
        for name, count in sorted(counts.items())
    ]


def _served(peer: Any) -> Iterator[str]:
    if not isinstance(peer, Mapping) or peer.get("connected") is False:
        return
    for service in _list_of(peer.get("service")):
        if isinstance(service, Mapping):
            for entry in _list_of(service.get("identity_group")):
                if isinstance(entry, str) and entry.startswith(_MODEL):
                    name = entry.removeprefix(_MODEL).strip()
                    if name and name != "*":
                        yield name


def _list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _node(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1")


def _line(relayed: ProxyResponse) -> str:
    """What a node says of a failure, on one line and not too long."""
    text = relayed.head(_LONGEST_ERROR).decode("utf-8", "replace").removeprefix("ERROR: ")
    return " ".join(text.split())
