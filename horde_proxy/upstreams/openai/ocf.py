"""Open Compute Framework nodes (OpenTela) as an upstream: models by peer, calls by service.

A node passes calls on to whichever peer serves the model. It differs from an OpenAI server in two
ways: its models are in GET /v1/dnt/table, and calls go to /v1/service/llm/v1/... What a failure of
a node looks like is known to answer_start.py and errors.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from horde_proxy.errors import UpstreamFailed
from horde_proxy.upstreams.openai.model_list import is_usable_id
from horde_proxy.upstreams.openai.upstream import OpenAIUpstream

_SERVICE = "/v1/service/llm/v1"
_MODEL = "model="
"""What an identity group begins with that names a model: "model=Qwen/Qwen3-8B"."""


class OCFUpstream(OpenAIUpstream):
    """One node."""

    kind = "ocf"
    is_free_at_home = False  # the node is, but its peers are anybody's

    @staticmethod
    def _api_base(url: str) -> str:
        return url.rstrip("/").removesuffix("/v1") + _SERVICE

    def _list(self) -> list[dict[str, Any]]:
        node = self._base.removesuffix(_SERVICE)
        return models_of(self._document(self._get(f"{node}/v1/dnt/table")))


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
