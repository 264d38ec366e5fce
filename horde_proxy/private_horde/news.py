"""News of the horde: what GET status/news lists, the newest first. Pure rules over the store."""

from __future__ import annotations

from typing import Any

from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import NEW, NewsItem

_MOST_LISTED = 100


def listed(op: Operation) -> list[NewsItem]:
    """The newest news, the newest first."""
    return op.tx.page(NewsItem, "published", descending=True, offset=0, limit=_MOST_LISTED)


def publish(op: Operation, fields: dict[str, Any]) -> NewsItem:
    """A new item. `fields`: see `moderation_schema.NEWS`."""
    item = NewsItem(
        NEW,
        op.now,
        fields["title"],
        fields["newspiece"],
        fields["importance"],
        tuple(fields["tags"]),
        tuple(fields["more_info_urls"]),
    )
    op.tx.add(item)
    return item


def delete(op: Operation, item_id: str) -> None:
    """Remove an item. Raises NewsNotFound (404)."""
    is_number = item_id.isascii() and item_id.isdecimal() and len(item_id) < 19
    item = op.tx.get(NewsItem, int(item_id)) if is_number else None
    if item is None:
        raise refusal("NewsNotFound", id=item_id)
    op.tx.delete(item)
