"""A client's key: its name and its rights, and how a new one is made. No I/O."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from horde_proxy.aihorde.names import matches_glob


@dataclass(frozen=True)
class ClientKey:
    """A key's name and rights. As a limit, None means no limit; as a list, () means all.

    `models` are globs with * and ?, in upper or lower case alike. `concurrent` is the number of
    requests at a time. Days are UTC days. `horde_key` pays on the horde instead of the proxy's own
    key. An `admin` may see the requests and usage of all keys. `created` is unix seconds, 0 for a
    configured key.
    """

    name: str
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    concurrent: int | None = None
    tokens_per_day: int | None = None
    kudos_per_day: float | None = None
    images_per_day: int | None = None
    horde_key: str | None = field(default=None, repr=False)
    admin: bool = False
    created: int = 0

    @property
    def allows_all_models(self) -> bool:
        """Whether the key may use every model, even one that a request does not name."""
        return not self.models

    def allows_model(self, name: str) -> bool:
        """Whether the key may use the model of this name."""
        return not self.models or any(matches_glob(name, glob) for glob in self.models)

    def allows_endpoint(self, name: str) -> bool:
        """Whether the key may use the endpoint of this name."""
        return not self.endpoints or name in self.endpoints


def new_key() -> str:
    """A key that nobody can guess: "hp-" and 256 random bits."""
    return "hp-" + secrets.token_urlsafe(32)
