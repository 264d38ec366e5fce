"""The account that the proxy itself has at a horde, as its owner sees it, and its shared keys.

Every call goes to the horde at once: this is for the operator's page, not for requests. A shared
key is a key, so nothing here logs one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.errors import ProxyError
from horde_proxy.key_digest import key_fingerprint
from horde_proxy.upstreams.horde.catalog import number
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.shared_keys import SharedKey, is_shared_key, read_shared_key

_MOST_KEYS = 50
"""Shared keys that are looked up. An account has 3, or 10 if it is trusted (contract: user.py)."""


class OwnAccount:
    """The account behind an API key at one horde. Methods raise ProxyError."""

    def __init__(self, client: HordeClient, api_key: str) -> None:
        self._client, self._api_key = client, api_key

    @property
    def is_anonymous(self) -> bool:
        """Whether it is everybody's."""
        return self._api_key == ANONYMOUS_KEY

    @property
    def is_shared_key(self) -> bool:
        """Whether the key is a shared one, which cannot make others."""
        return is_shared_key(self._api_key)

    def facts(self) -> dict[str, Any]:
        """GET find_user, tidied: name, kudos, trusted and so on."""
        return _tidied(self._client.find_user(self._api_key))

    def shared_keys(self) -> dict[str, SharedKey]:
        """The account's shared keys by their fingerprints."""
        keys = {}
        for key_id in self._ids():
            try:
                keys[key_fingerprint(key_id)] = read_shared_key(self._client.shared_key(key_id))
            except ProxyError:
                # It was deleted meanwhile, or cannot be read now: its name is unknown.
                keys[key_fingerprint(key_id)] = SharedKey()
        return keys

    def make_shared_key(self, body: Mapping[str, Any]) -> str:
        """PUT sharedkeys: a new shared key, which is its id."""
        return str(self._client.make_shared_key(self._api_key, body).get("id") or "")

    def change_shared_key(self, of: str, body: Mapping[str, Any]) -> bool:
        """PATCH sharedkeys/{id} for a fingerprint. False if there is no such key."""
        key_id = self._id(of)
        if key_id is not None:
            self._client.change_shared_key(self._api_key, key_id, body)
        return key_id is not None

    def delete_shared_key(self, of: str) -> bool:
        """DELETE sharedkeys/{id} for a fingerprint. False if there is no such key."""
        key_id = self._id(of)
        if key_id is not None:
            self._client.delete_shared_key(self._api_key, key_id)
        return key_id is not None

    def with_key(self, api_key: str) -> OwnAccount:
        """The account of another key at the same horde."""
        return OwnAccount(self._client, api_key)

    def _ids(self) -> list[str]:
        ids = self._client.find_user(self._api_key).get("sharedkey_ids")
        return [key_id for key_id in ids or [] if isinstance(key_id, str)][:_MOST_KEYS]

    def _id(self, of: str) -> str | None:
        return next((key_id for key_id in self._ids() if key_fingerprint(key_id) == of), None)


def _tidied(user: Mapping[str, Any]) -> dict[str, Any]:
    """What is shown of an account (capture user_own), with the types that it should have."""
    running = user.get("active_generations")
    running = running if isinstance(running, dict) else {}
    return {
        "name": str(user.get("username") or ""),
        "kudos": number(user.get("kudos"), 0),
        "concurrency": int(number(user.get("concurrency"), 0)),
        "trusted": bool(user.get("trusted")),
        "moderator": bool(user.get("moderator")),
        "flagged": bool(user.get("flagged")),
        "workers": int(number(user.get("worker_count"), 0)),
        "account_age": number(user.get("account_age"), 0),
        "running": sum(len(ids) for ids in running.values() if isinstance(ids, list)),
    }
