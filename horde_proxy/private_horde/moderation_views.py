"""The routes of teams, messages, filters, modes and news: read, call, return."""

from __future__ import annotations

from typing import Any

from flask import request

from horde_proxy.private_horde.horde import PrivateHorde
from horde_proxy.private_horde.routing import HordeRoute, body, checked_key, count

Answer = tuple[Any, int]


def _teams(horde: PrivateHorde) -> Answer:
    return horde.moderation.teams(), 200


def _create_team(horde: PrivateHorde) -> Answer:
    return horde.moderation.create_team(checked_key(horde), body()), 200


def _team(horde: PrivateHorde, team_id: str) -> Answer:
    return horde.moderation.team(team_id), 200


def _change_team(horde: PrivateHorde, team_id: str) -> Answer:
    return horde.moderation.change_team(checked_key(horde), team_id, body()), 200


def _delete_team(horde: PrivateHorde, team_id: str) -> Answer:
    return horde.moderation.delete_team(checked_key(horde), team_id), 200


def _messages(horde: PrivateHorde) -> Answer:
    return horde.moderation.messages(checked_key(horde)), 200


def _send_message(horde: PrivateHorde) -> Answer:
    return horde.moderation.send_message(checked_key(horde), body()), 200


def _message(horde: PrivateHorde, message_id: str) -> Answer:
    return horde.moderation.message(message_id), 200


def _delete_message(horde: PrivateHorde, message_id: str) -> Answer:
    return horde.moderation.delete_message(checked_key(horde), message_id), 200


def _filters(horde: PrivateHorde) -> Answer:
    key = checked_key(horde)
    contains = request.args.get("contains")
    return horde.moderation.filters(key, count("filter_type"), contains), 200


def _add_filter(horde: PrivateHorde) -> Answer:
    return horde.moderation.add_filter(checked_key(horde), body()), 200


def _test_prompt(horde: PrivateHorde) -> Answer:
    return horde.moderation.test_prompt(checked_key(horde), body()), 200


def _filter_expressions(horde: PrivateHorde) -> Answer:
    return horde.moderation.filter_expressions(checked_key(horde), count("filter_type")), 200


def _filter(horde: PrivateHorde, filter_id: str) -> Answer:
    return horde.moderation.filter(checked_key(horde), filter_id), 200


def _change_filter(horde: PrivateHorde, filter_id: str) -> Answer:
    return horde.moderation.change_filter(checked_key(horde), filter_id, body()), 200


def _delete_filter(horde: PrivateHorde, filter_id: str) -> Answer:
    return horde.moderation.delete_filter(checked_key(horde), filter_id), 200


def _modes(horde: PrivateHorde) -> Answer:
    return horde.moderation.modes(), 200


def _change_modes(horde: PrivateHorde) -> Answer:
    return horde.moderation.change_modes(checked_key(horde), body()), 200


def _news(horde: PrivateHorde) -> Answer:
    return horde.moderation.news(), 200


def _publish_news(horde: PrivateHorde) -> Answer:
    return horde.moderation.publish_news(checked_key(horde), body()), 201


def _delete_news(horde: PrivateHorde, item_id: str) -> Answer:
    return horde.moderation.delete_news(checked_key(horde), item_id), 200


MODERATION_ROUTES = (
    HordeRoute("/teams", {"GET": _teams, "POST": _create_team}, "worker"),
    HordeRoute(
        "/teams/<team_id>", {"GET": _team, "PATCH": _change_team, "DELETE": _delete_team}, "worker"
    ),
    HordeRoute("/workers/messages", {"GET": _messages, "POST": _send_message}),
    HordeRoute("/workers/messages/<message_id>", {"GET": _message, "DELETE": _delete_message}),
    HordeRoute("/filters", {"GET": _filters, "PUT": _add_filter, "POST": _test_prompt}),
    HordeRoute("/filters/regex", {"GET": _filter_expressions}),
    HordeRoute(
        "/filters/<filter_id>",
        {"GET": _filter, "PATCH": _change_filter, "DELETE": _delete_filter},
    ),
    HordeRoute("/status/modes", {"GET": _modes, "PUT": _change_modes}, "modes"),
    HordeRoute("/status/news", {"GET": _news, "POST": _publish_news}),
    HordeRoute("/status/news/<item_id>", {"DELETE": _delete_news}),
)
"""The routes of teams, messages, filters, modes and news."""
