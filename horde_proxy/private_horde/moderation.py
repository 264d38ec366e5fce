"""The routes of teams, messages, filters, modes and news, a method for each.

Bodies come in as parsed JSON, answers go out as plain dicts, refusals as HordeError. The rules are
in teams, worker_messages, prompt_filters, modes and news.
"""

from __future__ import annotations

from typing import Any

from horde_proxy.private_horde import (
    accounts,
    moderation_responses,
    moderation_schema,
    modes,
    news,
    prompt_filters,
    schema,
    teams,
    worker_messages,
)
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Begin, Operation
from horde_proxy.private_horde.records import HordeAccount, PromptFilter, Worker, WorkerTeam

Body = dict[str, Any]

_DONE = {"message": "OK"}


class Moderation:
    """What members and moderators arrange in a horde. Thread-safe."""

    def __init__(self, changing: Begin, reading: Begin) -> None:
        self._changing, self._reading = changing, reading

    # Teams.

    def teams(self) -> list[Body]:
        """GET teams: all teams, the oldest first."""
        with self._reading() as op:
            page = op.tx.page(
                WorkerTeam, "created", descending=False, offset=0, limit=teams.MOST_LISTED
            )
            return [_team(op, team) for team in page]

    def team(self, team_id: str) -> Body:
        """GET teams/{id}. Raises TeamNotFound."""
        with self._reading() as op:
            return _team(op, teams.find(op, team_id))

    def create_team(self, api_key: str, body: Any) -> Body:
        """POST teams: its id, name and info. Raises what `teams.create` raises."""
        fields = schema.read(moderation_schema.NEW_TEAM, body)
        with self._changing() as op:
            team = teams.create(op, accounts.require(op, api_key), fields)
            return {"id": team.id, "name": team.name, "info": team.info}

    def change_team(self, api_key: str, team_id: str, body: Any) -> Body:
        """PATCH teams/{id}: what was changed. Raises what `teams.change` raises."""
        fields = schema.read(moderation_schema.TEAM_CHANGE, body)
        with self._changing() as op:
            return teams.change(op, accounts.require(op, api_key), team_id, fields)

    def delete_team(self, api_key: str, team_id: str) -> Body:
        """DELETE teams/{id}. Raises what `teams.delete` raises."""
        with self._changing() as op:
            team = teams.delete(op, accounts.require(op, api_key), team_id)
            return {"deleted_id": team.id, "deleted_name": team.name}

    # Messages to workers.

    def messages(self, api_key: str) -> list[Body]:
        """GET workers/messages: the caller's own; for moderators all."""
        with self._reading() as op:
            messages = worker_messages.written_by(op, accounts.require(op, api_key))
            return [moderation_responses.message(message) for message in messages]

    def message(self, message_id: str) -> Body:
        """GET workers/messages/{id}. Raises MessageNotFound."""
        with self._reading() as op:
            return moderation_responses.message(worker_messages.find(op, message_id))

    def send_message(self, api_key: str, body: Any) -> Body:
        """POST workers/messages. Raises what `worker_messages.send` raises."""
        fields = schema.read(moderation_schema.MESSAGE, body)
        with self._changing() as op:
            message = worker_messages.send(op, accounts.require(op, api_key), fields)
            return moderation_responses.message(message)

    def delete_message(self, api_key: str, message_id: str) -> Body:
        """DELETE workers/messages/{id}. Raises what `worker_messages.delete` raises."""
        with self._changing() as op:
            worker_messages.delete(op, accounts.require(op, api_key), message_id)
            return _DONE

    # Filters of prompts, for moderators.

    def filters(
        self, api_key: str, filter_type: int | None = None, contains: str | None = None
    ) -> list[Body]:
        """GET filters: of one type, or with some text in their expression. Raises NotModerator."""
        with self._reading() as op:
            accounts.require_moderator(op, api_key)
            return [
                _filter(op, record)
                for record in prompt_filters.listed(op)
                if filter_type in (None, record.filter_type) and (contains or "") in record.regex
            ]

    def filter_expressions(self, api_key: str, filter_type: int | None = None) -> list[Body]:
        """GET filters/regex: one expression for each type. Raises NotModerator."""
        with self._reading() as op:
            accounts.require_moderator(op, api_key)
            expressions = moderation_responses.filter_expressions(prompt_filters.listed(op))
            return [item for item in expressions if filter_type in (None, item["filter_type"])]

    def filter(self, api_key: str, filter_id: str) -> Body:
        """GET filters/{id}. Raises NotModerator and FilterNotFound."""
        with self._changing() as op:
            accounts.require_moderator(op, api_key)
            return _filter(op, prompt_filters.find(op, filter_id))

    def add_filter(self, api_key: str, body: Any) -> Body:
        """PUT filters. Raises NotModerator, and BadRequest for a wrong expression."""
        fields = schema.read(moderation_schema.NEW_FILTER, body)
        with self._changing() as op:
            author = accounts.require_moderator(op, api_key)
            return _filter(op, prompt_filters.add(op, author, fields))

    def change_filter(self, api_key: str, filter_id: str, body: Any) -> Body:
        """PATCH filters/{id}. Raises NotModerator, FilterNotFound and BadRequest."""
        fields = schema.read(moderation_schema.FILTER_CHANGE, body)
        with self._changing() as op:
            accounts.require_moderator(op, api_key)
            return _filter(op, prompt_filters.change(op, filter_id, fields))

    def delete_filter(self, api_key: str, filter_id: str) -> Body:
        """DELETE filters/{id}. Raises NotModerator and FilterNotFound."""
        with self._changing() as op:
            accounts.require_moderator(op, api_key)
            op.tx.delete(prompt_filters.find(op, filter_id))
            return _DONE

    def test_prompt(self, api_key: str, body: Any) -> Body:
        """POST filters: which filters match a prompt. Raises NotModerator."""
        fields = schema.read(moderation_schema.FILTER_TEST, body)
        with self._reading() as op:
            accounts.require_moderator(op, api_key)
            matches = prompt_filters.matching(op, fields["prompt"])
        wanted = fields["filter_type"]
        return moderation_responses.filter_test(
            [record for record in matches if wanted in (None, record.filter_type)]
        )

    # Modes and news, for administrators.

    def modes(self) -> Body:
        """GET status/modes: whether new requests and new workers are refused.

        A horde without kudos says so.
        """
        with self._reading() as op:
            current = modes.current(op)
            free = {} if op.rules.kudos else {"kudos": "off"}
        return {name: current[name] for name in ("maintenance_mode", "invite_only_mode")} | free

    def change_modes(self, api_key: str, body: Any) -> Body:
        """PUT status/modes: what was changed. Raises NotAdmin and NoHordeModSelected."""
        fields = schema.read(moderation_schema.MODES, body)
        changes = {name: value for name, value in fields.items() if value is not None}
        with self._changing() as op:
            accounts.require_admin(op, api_key)
            if not changes:
                raise refusal("NoHordeModSelected")
            modes.change(op, changes)
        return changes

    def news(self, *, with_ids: bool = False) -> list[Body]:
        """GET status/news: the newest first. The real horde's items have no id."""
        with self._reading() as op:
            return [
                {**({"id": item.id} if with_ids else {}), **moderation_responses.news_item(item)}
                for item in news.listed(op)
            ]

    def publish_news(self, api_key: str, body: Any) -> Body:
        """POST status/news: the item, with its id. Raises NotAdmin."""
        fields = schema.read(moderation_schema.NEWS, body)
        with self._changing() as op:
            accounts.require_admin(op, api_key)
            item = news.publish(op, fields)
            return {"id": item.id, **moderation_responses.news_item(item)}

    def delete_news(self, api_key: str, item_id: str) -> Body:
        """DELETE status/news/{id}. Raises NotAdmin and NewsNotFound."""
        with self._changing() as op:
            accounts.require_admin(op, api_key)
            news.delete(op, item_id)
            return _DONE


def _team(op: Operation, team: WorkerTeam) -> Body:
    workers = op.tx.find(Worker, team_id=team.id)
    creator = op.tx.get(HordeAccount, team.creator_id)
    online = op.view.read(lambda view: {worker.id for worker in view.workers.all})
    return moderation_responses.team(team, creator, workers, online)


def _filter(op: Operation, record: PromptFilter) -> Body:
    author = op.tx.get(HordeAccount, record.account_id)
    return moderation_responses.prompt_filter(record, author)
