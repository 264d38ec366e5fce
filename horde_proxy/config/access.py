"""[access]: who may use the proxy, and whose horde key pays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from horde_proxy.config.values import Section, SentKey, header_value, known_database
from horde_proxy.folders import state_folder
from horde_proxy.key_digest import digest_of_setting
from horde_proxy.key_rules import LEAST_WEIGHT, MOST_WEIGHT, key_name
from horde_proxy.places import EndpointPlace

_SHORTEST_KEY = 16
"""Characters. A random key of 16 letters and digits has more than 80 bits; none guesses that."""
_LONGEST_SHOWN = 80
"""Characters of a wrong name that an error repeats."""
_STAND_IN = "sk-no-key"
"""llama.cpp's examples send "sk-no-key-required", for SDKs that insist on a key."""


class KeySettings(Section):
    """One client's key, and what it may do. Write `NAME = "KEY"`, or a table."""

    key: Annotated[str, Field(repr=False)]
    """The key itself, or `sha256:` and its digest in hexadecimal."""
    models: list[str] = []
    """Globs of the models that it may use; empty: all."""
    endpoints: list[str] = []
    """Names of the endpoints that it may use; empty: all."""
    places: list[EndpointPlace] = []
    """The places that its requests may reach, `home`, `private`, `crowd` or `paid`; empty: all."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Requests in any 60 seconds."""
    concurrent: Annotated[int, Field(ge=1)] | None = None
    """Requests at a time."""
    tokens_per_day: Annotated[int, Field(ge=1)] | None = None
    """Tokens of prompts and answers in a day (UTC)."""
    kudos_per_day: Annotated[float, Field(gt=0)] | None = None
    """Kudos in a day (UTC)."""
    images_per_day: Annotated[int, Field(ge=1)] | None = None
    """Images in a day (UTC)."""
    weight: Annotated[float, Field(ge=LEAST_WEIGHT, le=MOST_WEIGHT)] = 1.0
    """Its turns where requests wait in line: with 2, twice as many as a key with 1."""
    horde_key: Annotated[SentKey | None, Field(repr=False)] = None
    """The key at `horde.url` that pays for it, instead of the proxy's own."""
    admin: bool = False
    """Whether it may see everybody's requests and usage."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return {"key": given} if isinstance(given, str) else given

    @field_validator("key")
    @classmethod
    def _usable(cls, key: str) -> str:
        digest = key.removeprefix("sha256:")
        if digest != key and not re.fullmatch("[0-9a-fA-F]{64}", digest):
            raise ValueError("write 64 hexadecimal digits after sha256:")
        if key != header_value(key).strip():
            raise ValueError("it has spaces at an end, which clients do not send")
        if key.lower().startswith(_STAND_IN):
            raise ValueError(f"clients without a key send {_STAND_IN}...: choose another")
        if len(key) < _SHORTEST_KEY:
            raise ValueError(f"it is shorter than {_SHORTEST_KEY} characters")
        return key


class AccessSettings(Section):
    """Who may use the proxy, and whose horde key pays."""

    mode: Literal["open", "keys", "passthrough"] | None = None
    """`open`: anyone, on the proxy's horde key. `keys`: clients with a key. `passthrough`:
    anyone, each on the horde key that it sends. Not set: `open`, to this machine only."""
    keys: Annotated[dict[str, KeySettings], Field(repr=False)] = {}
    """Keys by name, beside those that `horde-proxy keys add` makes. A name has up to 64 letters,
    digits and `. _ - @`."""
    admins: list[str] = []
    """Names of `keys` that may see everybody's requests."""
    database: Annotated[str | None, Field(repr=False)] = None
    """Where added keys and usage are kept: `sqlite:///PATH` or `postgresql://...`. Not set: with
    mode `keys` a file in the state folder, else memory."""

    usage_days: Annotated[int, Field(ge=0, le=36_500)] = 0
    """Days for which the usage of keys is kept; 0: all is kept. The keys themselves stay."""

    def database_url(self) -> str | None:
        """Where keys and usage are kept; None: in memory."""
        if self.database or self.mode != "keys":
            return self.database
        return f"sqlite:///{state_folder()}/ledger.db"

    def duplicate_keys(self) -> list[str]:
        """Names of keys that are the same: whose limits should count?"""
        return _duplicates({name: digest_of_setting(key.key) for name, key in self.keys.items()})

    @field_validator("keys")
    @classmethod
    def _named(cls, keys: dict[str, KeySettings]) -> dict[str, KeySettings]:
        for name in keys:
            try:
                key_name(name)
            except ValueError as exc:
                raise ValueError(f"{name[:_LONGEST_SHOWN]!r}: {exc}") from None
        return keys

    @field_validator("database")
    @classmethod
    def _known_database(cls, url: str | None) -> str | None:
        return None if url is None else known_database(url)


def _duplicates(digests: Mapping[str, str]) -> list[str]:
    """The names of the first digest that has several."""
    names: dict[str, list[str]] = {}
    for name, digest in digests.items():
        names.setdefault(digest, []).append(name)
    return next((same for same in names.values() if len(same) > 1), [])
