"""Makes ids for tool calls, for every kind of upstream. It never replaces an id that came."""

from __future__ import annotations

import secrets


def new_call_id() -> str:
    """An id like OpenAI's: clients send it back with the result of the call."""
    return f"call_{secrets.token_hex(12)}"
