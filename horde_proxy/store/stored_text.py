"""Values as both databases can store them: JSON as text, ids of any client as keys."""

from __future__ import annotations

import hashlib
import json
from typing import Any

_LONGEST_ID = 200
"""Characters. Our own ids have 60 at most; clients and other servers send ids of any length."""


def json_text(value: Any) -> str:
    """The value as compact JSON."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if not text.isascii():
        try:
            text.encode()
        # Half a surrogate pair, as a model's broken emoji. Both databases refuse it but escaped.
        except UnicodeEncodeError:
            return json.dumps(value, separators=(",", ":"))
    return text


def stored_id(text: str) -> str:
    """The id as the key of a row; for one that no database takes, its digest instead."""
    if len(text) <= _LONGEST_ID and text.isprintable():
        return text
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
