"""The bodies of the routes for alchemy: JSON schemas and defaults. See `schema`."""

from __future__ import annotations

from horde_proxy.aihorde.agents import UNKNOWN_AGENT
from horde_proxy.aihorde.image_limits import ALCHEMY_FORMS, MOST_TILES
from horde_proxy.private_horde.schema import BodySchema, Schema

_TEXT: Schema = {"type": "string"}
_FORM: Schema = {"type": "string", "enum": list(ALCHEMY_FORMS)}
_MOST_FORMS = 50
"""Of a request: each is a job of its own. There are 23 forms, and none is wanted often."""

SUBMIT = BodySchema(
    {
        "source_image": _TEXT,
        "forms": {
            "type": "array",
            "maxItems": _MOST_FORMS,
            "items": {
                "type": "object",
                "properties": {"name": _FORM, "payload": {"type": "object"}},
                "required": ["name"],
            },
            "default": [],
        },
        "slow_workers": {"type": "boolean", "default": True},
        "trusted_workers": {"type": "boolean", "default": False},
        # The real horde refuses a shorter one so (capture interrogate_err_webhook_http).
        "webhook": {"type": "string", "minLength": 10},
    },
    required={"source_image": ""},
)
"""POST interrogate/async."""

POP = BodySchema(
    {
        "name": {"type": "string", "minLength": 1, "maxLength": 100},
        # Without any, captions: the real horde's default, too.
        "forms": {"type": "array", "items": _FORM, "maxItems": 100, "default": ["caption"]},
        "amount": {"type": "integer", "minimum": 1, "maximum": 20, "default": 1},
        "threads": {"type": "integer", "minimum": 1, "maximum": 100, "default": 1},
        "max_tiles": {"type": "integer", "minimum": 1, "maximum": MOST_TILES + 1, "default": 80},
        "bridge_agent": {"type": "string", "maxLength": 1000, "default": UNKNOWN_AGENT},
        "priority_usernames": {"type": "array", "items": _TEXT, "default": []},
        # Ours: no worker of AI-Horde sends it (docs/private-horde.md).
        "wait": {"type": "number", "minimum": 0, "default": 0},
    },
    required={"name": "The worker's name, unique in the whole horde."},
)
"""POST interrogate/pop."""

RESULT = BodySchema(
    {
        "id": _TEXT,
        "result": {"type": "object", "default": {}},
        "state": {"type": "string", "enum": ["ok", "faulted"], "default": "ok"},
    },
    required={"id": "The id of the form."},
)
"""POST interrogate/submit."""
