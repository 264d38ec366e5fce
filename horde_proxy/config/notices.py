"""[notices]: what is sent to the operator's phone, or to a program of theirs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from horde_proxy.config.secret_file import read_secret_file
from horde_proxy.config.store import checked_secret
from horde_proxy.config.values import Seconds, Section, header_value, http_url


class NoticeSettings(Section):
    """A notice is sent when an endpoint is down, kudos are low, or a favourite model is gone, and
    another one when that is over: to a webhook, or to your phone by ntfy (https://ntfy.sh)."""

    webhook: Annotated[str | None, Field(repr=False)] = None
    """Where notices are posted as JSON, with a `text` that Slack and Mattermost show."""
    secret: Annotated[str | None, Field(repr=False)] = None
    """What signs them, as Standard Webhooks are signed: `whsec_` and base64 of 24 to 64 bytes."""
    secret_file: str | None = None
    """A file with the secret instead, such as one of systemd's `LoadCredential=`."""
    ntfy: Annotated[str | None, Field(repr=False)] = None
    """The URL of an ntfy topic: `https://ntfy.sh/TOPIC`. Anyone who knows the topic can read it."""
    ntfy_token: Annotated[str | None, Field(repr=False)] = None
    """The access token of a topic that needs one: `tk_...`."""
    ntfy_token_file: str | None = None
    """A file with the token instead."""
    private: bool = False
    """Whether the two URLs may lead to private addresses, such as this machine's or your
    network's."""
    after: Seconds = 300
    """For how long an endpoint must be down, or a favourite model gone, before a notice is sent.
    An endpoint whose machine is asleep is not down."""
    endpoints: bool = True
    """Whether notices are sent about endpoints."""
    kudos_below: Annotated[float | None, Field(gt=0)] = None
    """A notice is sent when the proxy's account at a horde has fewer kudos. Not set: never."""
    favourites: Annotated[list[str], Field(max_length=100)] = []
    """A notice is sent when one of these models is gone; it names the nearest available one."""

    def has_target(self) -> bool:
        """Whether notices go anywhere."""
        return self.webhook is not None or self.ntfy is not None

    def read_secret(self) -> str:
        """The secret, from wherever it is, or "". Raises ValueError."""
        if self.secret_file is None:
            return self.secret or ""
        return checked_secret(read_secret_file("notices.secret_file", self.secret_file))

    def read_token(self) -> str:
        """The token, from wherever it is, or "". Raises ValueError."""
        if self.ntfy_token_file is None:
            return self.ntfy_token or ""
        return header_value(read_secret_file("notices.ntfy_token_file", self.ntfy_token_file))

    @field_validator("webhook", "ntfy")
    @classmethod
    def _url(cls, url: str | None) -> str | None:
        return url if url is None else http_url(url)

    @field_validator("secret")
    @classmethod
    def _secret(cls, secret: str | None) -> str | None:
        return secret if secret is None else checked_secret(secret)

    @field_validator("ntfy_token")
    @classmethod
    def _token(cls, token: str | None) -> str | None:
        return token if token is None else header_value(token)

    @model_validator(mode="after")
    def _once(self) -> NoticeSettings:
        for name in ("secret", "ntfy_token"):
            if getattr(self, name) is not None and getattr(self, f"{name}_file") is not None:
                raise ValueError(f"set either {name} or {name}_file")
        return self
