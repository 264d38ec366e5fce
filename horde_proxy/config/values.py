"""The types of settings that several sections have, and the base of all sections. No I/O."""

from __future__ import annotations

from importlib.util import find_spec
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from horde_proxy.extras import command_for

Seconds = Annotated[float, Field(gt=0)]
SecondsOrZero = Annotated[float, Field(ge=0)]
"""Seconds, where 0 is a choice of its own: not to wait at all."""


class Section(BaseModel):
    """A table of the settings. Unknown names are refused, and so are infinite numbers."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host name or address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def header_value(text: str) -> str:
    """A text that can be sent in a header. Raises ValueError, which does not contain it.

    Otherwise the error of a later call would show the key.
    """
    if not text.isascii() or not text.isprintable():
        raise ValueError("it has characters not allowed in an HTTP header, such as a newline")
    return text


def http_url(url: str) -> str:
    """A URL that can be called. Raises ValueError, which does not contain its password."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        # urllib's own message would show the password, or the part of it that is in brackets.
        raise ValueError(
            "the URL has no valid host; percent-encode [ and ] in the password"
        ) from None
    if not url.startswith(("http://", "https://")) or not host:
        raise ValueError("write it with http:// or https:// and a host")
    if " " in url or not url.isprintable():
        raise ValueError("it has characters not allowed in a URL")
    try:
        # As a call would: "http://a..b" and a part of more than 63 characters are no names of DNS.
        host.encode("idna")
    except UnicodeError:
        raise ValueError("the URL's host has a part that is empty or too long") from None
    try:
        _ = urlsplit(url).port
    except ValueError:
        # urllib's own message would show the part of a password that follows a slash.
        raise ValueError("the port must be a number from 1 to 65535") from None
    return url


def known_database(url: str) -> str:
    """The URL of a database that can be used here. Raises ValueError."""
    if not url.startswith(("sqlite:///", "postgresql://")):
        raise ValueError("write it as sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME")
    if url.startswith("sqlite:///:memory:") or url in ("sqlite:///", "sqlite:////"):
        raise ValueError("name a file: sqlite:///PATH, with four slashes for one from the root")
    if url.startswith("postgresql") and find_spec("psycopg") is None:
        raise ValueError(f"psycopg is missing; {command_for('postgres')}")
    return url


def proxy_url(text: str) -> str:
    """The URL of an HTTP proxy, or "direct". Raises ValueError."""
    return text if text == "direct" else http_url(text)


def webhook_url(url: str) -> str:
    """A URL that AI-Horde pushes results to. Raises ValueError."""
    if not url.startswith("https://"):
        raise ValueError("the horde delivers to https:// only")
    return url


SentKey = Annotated[str, AfterValidator(header_value)]
HttpUrl = Annotated[str, AfterValidator(http_url)]
ProxyUrl = Annotated[str, AfterValidator(proxy_url)]
WebhookUrl = Annotated[str, AfterValidator(webhook_url)]
