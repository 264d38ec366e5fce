"""The bodies of the routes of teams, messages, filters, modes and news (see `schema`)."""

from __future__ import annotations

from horde_proxy.private_horde.address_timeouts import MOST_HOURS
from horde_proxy.private_horde.schema import BodySchema, Schema

_BOOLEAN: Schema = {"type": "boolean"}
_TEXTS: Schema = {
    "type": "array",
    "items": {"type": "string", "maxLength": 500},
    "maxItems": 20,
    "default": [],
}
_TEAM_NAME: Schema = {"type": "string", "minLength": 3, "maxLength": 100}
_TEAM_INFO: Schema = {"type": "string", "maxLength": 1000}

NEW_TEAM = BodySchema(
    {"name": _TEAM_NAME, "info": _TEAM_INFO}, required={"name": "The team's name."}
)
"""POST teams."""

TEAM_CHANGE = BodySchema({"name": _TEAM_NAME, "info": _TEAM_INFO})
"""PATCH teams/{id}."""

MESSAGE = BodySchema(
    {
        "worker_id": {"type": "string", "maxLength": 36},
        "message": {"type": "string", "minLength": 1, "maxLength": 10_240},
        "origin": {"type": "string", "maxLength": 255},
        # Hours. The real horde needs it, and fails without it.
        "expiry": {"type": "integer", "minimum": 1, "maximum": 720, "default": 12},
    },
    required={"message": "The words for the worker's owner."},
)
"""POST workers/messages."""

_REGEX: Schema = {"type": "string", "minLength": 1, "maxLength": 2000}
# The least type is the real horde's (capture filter_put_bad_type).
_TYPE: Schema = {"type": "integer", "minimum": 10, "maximum": 29}
_LINE: Schema = {"type": "string", "maxLength": 500}

NEW_FILTER = BodySchema(
    {"regex": _REGEX, "filter_type": _TYPE, "description": _LINE, "replacement": _LINE},
    required={"regex": "The regular expression.", "filter_type": "10, 11 or 20."},
)
"""PUT filters."""

FILTER_CHANGE = BodySchema(dict(NEW_FILTER.fields))
"""PATCH filters/{id}."""

FILTER_TEST = BodySchema(
    {"prompt": {"type": "string"}, "filter_type": _TYPE}, required={"prompt": "The prompt to try."}
)
"""POST filters."""

_ADDRESS: Schema = {"type": "string", "minLength": 1, "maxLength": 60}
_ADDRESS_HELP = {"ipaddr": "An IP address, or a network such as 198.51.100.0/24."}

TIMEOUT = BodySchema({"ipaddr": _ADDRESS}, required=_ADDRESS_HELP)
"""DELETE operations/ipaddr."""

NEW_TIMEOUT = BodySchema(
    {"ipaddr": _ADDRESS, "hours": {"type": "integer", "minimum": 1, "maximum": MOST_HOURS}},
    required={**_ADDRESS_HELP, "hours": "For how many hours."},
)
"""POST operations/ipaddr."""

WORKER_TIMEOUT = BodySchema(
    {"days": {"type": "integer", "minimum": 1, "maximum": MOST_HOURS // 24}},
    required={"days": "For how many days."},
)
"""PUT operations/block_worker_ipaddr/{id}."""

MODES = BodySchema(dict.fromkeys(("maintenance_mode", "invite_only_mode", "raid_mode"), _BOOLEAN))
"""PUT status/modes."""

NEWS = BodySchema(
    {
        "title": {"type": "string", "minLength": 1, "maxLength": 200},
        "newspiece": {"type": "string", "minLength": 1, "maxLength": 10_000},
        "importance": {"type": "string", "maxLength": 50, "default": "Information"},
        "tags": _TEXTS,
        "more_info_urls": _TEXTS,
    },
    required={"title": "The headline.", "newspiece": "The text, in Markdown."},
)
"""POST status/news."""
