"""What a request brings: its JSON body, its key in every form that clients send, its address."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from flask import g, request

from horde_proxy.api.front import front
from horde_proxy.errors import InvalidRequest

_KEY_HEADERS = ("api-key", "x-api-key", "apikey")
_NO_KEYS = frozenset({"", "null", "undefined", "none", "anonymous", "empty"})
_NOT_JSON = "We could not parse the JSON body of your request."
_NO_KEY_PREFIX = "sk-no-key"


def read_json() -> Any:
    """The decoded body, whatever its Content-Type says. Raises InvalidRequest."""
    body = request.get_data(cache=False)
    g.digest = hashlib.sha256(body).hexdigest()
    try:
        return json.loads(body)
    except json.JSONDecodeError as exc:
        place = f" {exc.msg} (line {exc.lineno}, column {exc.colno})."
        reason = place if exc.doc else " It is empty."
        raise InvalidRequest(_NOT_JSON + reason) from exc
    except UnicodeDecodeError as exc:
        raise InvalidRequest(_NOT_JSON + " It is not UTF-8.") from exc
    except ValueError as exc:
        raise InvalidRequest(_NOT_JSON + " A number in it is too long.") from exc
    except RecursionError as exc:
        raise InvalidRequest(_NOT_JSON + " It is nested too deeply.") from exc


def client_key() -> str | None:
    """The key that the client sent, or None where it sent none or a stand-in for none."""
    scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
    sent = [token if scheme.lower() == "bearer" else ""]
    sent += [request.headers.get(name, "") for name in _KEY_HEADERS]
    keys = (key.strip() for key in sent)
    return next((key for key in keys if _is_key(key)), None)


def guard() -> None:
    """Let in who may; for the blueprints that want a key. Raises InvalidApiKey."""
    g.record.key = front().keys.name_of(client_key())


def client_name() -> str:
    """Who asks: the digest of the key that was sent, or the address of who sent none."""
    key = client_key()
    if key is None:
        return f"address {client_address()}"
    return "key " + hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:32]


def client_address() -> str:
    """The peer, or whom a trusted proxy names as the client: the last address it did not add."""
    trusted, address = front().trusted_proxies, request.remote_addr or ""
    forwarded = [each.strip() for each in request.headers.get("X-Forwarded-For", "").split(",")]
    while address in trusted and forwarded and forwarded[-1]:
        address = forwarded.pop()
    return address


def _is_key(key: str) -> bool:
    return key.lower() not in _NO_KEYS and not key.lower().startswith(_NO_KEY_PREFIX)
