"""[store]: what clients may fetch later; [webhooks]: where its ends are posted."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from horde_proxy.config.secret_file import read_secret_file
from horde_proxy.config.values import Seconds, Section, http_url, known_database
from horde_proxy.folders import state_folder


class StoreSettings(Section):
    """Answers, files and batches that clients may fetch later."""

    days: Annotated[int, Field(ge=0, le=3650)] = 30
    """Days for which responses, conversations, files and batches are kept; 0 keeps none."""
    database: Annotated[str | None, Field(repr=False)] = None
    """Where they are kept: `sqlite:///PATH` or `postgresql://...`. Not set: a file in the state
    folder, made when the first one is stored."""
    jobs: Annotated[int, Field(ge=1, le=1000)] = 30
    """Background responses and lines of batches that are answered at a time. The AI Horde lets an
    account have 30 jobs waiting; where that is full, they wait here."""
    background_timeout: Seconds = 7200
    """How long a background response may take, the time in which it waits for its turn included."""

    def database_url(self) -> str | None:
        """Where answers are kept; None: nowhere."""
        if not self.days:
            return None
        return self.database or f"sqlite:///{state_folder()}/store.db"

    @field_validator("database")
    @classmethod
    def _database(cls, url: str | None) -> str | None:
        return url if url is None else known_database(url)


WebhookEvent = Literal[
    "response.completed",
    "response.failed",
    "response.incomplete",
    "response.cancelled",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
]


class WebhookSettings(Section):
    """Your own program is told how background responses and batches end, as Standard Webhooks."""

    url: Annotated[str | None, Field(repr=False)] = None
    """Where events are posted; not set: nowhere."""
    secret: Annotated[str | None, Field(repr=False)] = None
    """What they are signed with: `whsec_` and base64 of 24 to 64 random bytes."""
    secret_file: str | None = None
    """A file with the secret instead, such as one of systemd's `LoadCredential=`."""
    events: list[WebhookEvent] = []
    """The types of events that are sent; empty: all."""
    private: bool = False
    """Whether `url` may lead to a private address, such as this machine's or your network's."""

    def read_secret(self) -> str:
        """The secret, from wherever it is. Raises ValueError for a file that cannot be read."""
        if self.secret_file is None:
            return self.secret or ""
        return checked_secret(read_secret_file("webhooks.secret_file", self.secret_file))

    @field_validator("url")
    @classmethod
    def _url(cls, url: str | None) -> str | None:
        return url if url is None else http_url(url)

    @field_validator("secret")
    @classmethod
    def _secret(cls, secret: str | None) -> str | None:
        return secret if secret is None else checked_secret(secret)

    @model_validator(mode="after")
    def _signed(self) -> WebhookSettings:
        if self.url is not None and (self.secret is None) == (self.secret_file is None):
            raise ValueError("set either secret or secret_file, which events are signed with")
        return self


def checked_secret(secret: str) -> str:
    """The secret, if receivers can check signatures with it. Raises ValueError otherwise."""
    encoded = secret.removeprefix("whsec_")
    try:
        if encoded != secret and 24 <= len(base64.b64decode(encoded, validate=True)) <= 64:
            return secret
    except binascii.Error:
        pass
    raise ValueError(
        "the secret of webhooks is `whsec_` and base64 of 24 to 64 bytes, as "
        "`echo whsec_$(openssl rand -base64 32)` writes one"
    )
