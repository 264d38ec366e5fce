"""What an operator arranges without a key: news, filters, modes, time-outs (`horde-proxy horde`).

Bodies are read as those of the routes, so what a route would refuse is refused here as well.
Answers are plain dicts, refusals HordeError.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from horde_proxy.private_horde import (
    address_timeouts,
    moderation_responses,
    moderation_schema,
    modes,
    news,
    prompt_filters,
    schema,
)
from horde_proxy.private_horde.administration import OPERATOR
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import NewsItem, PromptFilter

Body = dict[str, Any]
Begin = Callable[[], AbstractContextManager[Operation]]

_HOUR = 3600.0


class OperatorRules:
    """The rules of a horde, for its operator. Thread-safe."""

    def __init__(self, changing: Begin, reading: Begin) -> None:
        self._changing, self._reading = changing, reading

    def news(self) -> list[Body]:
        """The newest news with their `id`, the newest first."""
        with self._reading() as op:
            return [_news(item) for item in news.listed(op)]

    def publish_news(self, **fields: Any) -> Body:
        """A new item. `fields`: see `moderation_schema.NEWS`."""
        read = schema.read(moderation_schema.NEWS, fields)
        with self._changing() as op:
            return _news(news.publish(op, read))

    def delete_news(self, item_id: str) -> None:
        """Remove an item. Raises NewsNotFound."""
        with self._changing() as op:
            news.delete(op, item_id)

    def filters(self) -> list[Body]:
        """All filters of prompts, the oldest first."""
        with self._reading() as op:
            return [_filter(record) for record in prompt_filters.listed(op)]

    def add_filter(self, **fields: Any) -> Body:
        """A new filter. `fields`: see `moderation_schema.NEW_FILTER`. Raises BadRequest."""
        read = schema.read(moderation_schema.NEW_FILTER, fields)
        with self._changing() as op:
            return _filter(prompt_filters.add(op, OPERATOR, read))

    def delete_filter(self, filter_id: str) -> None:
        """Remove a filter. Raises FilterNotFound."""
        with self._changing() as op:
            op.tx.delete(prompt_filters.find(op, filter_id))

    def test_prompt(self, prompt: str) -> list[Body]:
        """The filters that match a prompt."""
        with self._reading() as op:
            return [_filter(record) for record in prompt_filters.matching(op, prompt)]

    def modes(self) -> dict[str, bool]:
        """Whether each mode is on, by its name."""
        with self._reading() as op:
            return modes.current(op)

    def change_modes(self, **changes: bool) -> dict[str, bool]:
        """All modes after some were switched."""
        with self._changing() as op:
            modes.change(op, changes)
            return modes.current(op)

    def timeouts(self) -> list[Body]:
        """The time-outs of addresses, the longest first."""
        with self._reading() as op:
            return [
                {"ipaddr": timeout.id, "seconds": address_timeouts.seconds_left(op, timeout)}
                for timeout in address_timeouts.listed(op)
            ]

    def add_timeout(self, ipaddr: str, hours: int) -> None:
        """Put an address or a network into time-out. Raises BadRequest."""
        fields = {"ipaddr": ipaddr, "hours": hours}
        read = schema.read(moderation_schema.NEW_TIMEOUT, fields)
        with self._changing() as op:
            address_timeouts.add(op, OPERATOR, read["ipaddr"], read["hours"] * _HOUR)

    def delete_timeout(self, ipaddr: str) -> None:
        """End the time-out of an address or a network. Raises BadRequest."""
        with self._changing() as op:
            address_timeouts.delete(op, ipaddr)


def _news(item: NewsItem) -> Body:
    return {"id": item.id, **moderation_responses.news_item(item)}


def _filter(record: PromptFilter) -> Body:
    return moderation_responses.prompt_filter(record, None)
