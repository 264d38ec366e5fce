"""The JSON objects of teams, messages, filters, news and modes, each made by one function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any

from horde_proxy.private_horde.fleet_responses import popped_message
from horde_proxy.private_horde.prompt_filters import TYPES
from horde_proxy.private_horde.records import (
    HordeAccount,
    NewsItem,
    PromptFilter,
    Worker,
    WorkerMessage,
    WorkerTeam,
)

Body = dict[str, Any]


def team(
    record: WorkerTeam,
    creator: HordeAccount | None,
    workers: Sequence[Worker],
    online: Iterable[str],
) -> Body:
    """GET teams/{id}: sums over the workers that are in the team now. `online` are ids."""
    ids = set(online)
    models = Counter(model for worker in workers for model in worker.models)
    return {
        "info": record.info,
        "requests_fulfilled": sum(worker.fulfilled for worker in workers),
        "kudos": round(sum(worker.kudos for worker in workers), 2),
        "uptime": int(sum(worker.uptime for worker in workers)),
        "creator": creator.username if creator else "",
        "worker_count": len(workers),
        "workers": [
            {"type": "text", "name": worker.name, "id": worker.id, "online": worker.id in ids}
            for worker in workers
        ],
        "models": [{"name": name, "count": count} for name, count in models.items()],
        "name": record.name,
        "id": record.id,
    }


def message(record: WorkerMessage) -> Body:
    """GET workers/messages/{id}."""
    return {
        "worker_id": record.worker_id or None,
        "user_id": str(record.account_id),
        "created": formatdate(record.created),
        **popped_message(record),
    }


def prompt_filter(record: PromptFilter, author: HordeAccount | None) -> Body:
    """GET filters/{id}."""
    return {
        "id": str(record.id),
        "regex": record.regex,
        "filter_type": record.filter_type,
        "description": record.description,
        "replacement": record.replacement,
        "user": author.username if author else "",
    }


def filter_expressions(records: Iterable[PromptFilter]) -> list[Body]:
    """GET filters/regex: one expression for all filters of a type (capture filters_regex)."""
    by_type: dict[int, list[str]] = {number: [] for number in TYPES}
    for record in records:
        by_type.setdefault(record.filter_type, []).append(record.regex)
    return [
        {"filter_type": number, **({"regex": "|".join(parts)} if parts else {})}
        for number, parts in by_type.items()
    ]


def filter_test(matches: Sequence[PromptFilter]) -> Body:
    """POST filters: which filters match. `suspicion` is a string, as captured."""
    return {"suspicion": str(len(matches)), "matches": [record.regex for record in matches]}


def news_item(item: NewsItem) -> Body:
    """An element of GET status/news."""
    return {
        "date_published": datetime.fromtimestamp(item.published, UTC).date().isoformat(),
        "newspiece": item.newspiece,
        "importance": item.importance,
        "tags": list(item.tags),
        "title": item.title,
        "more_info_urls": list(item.more_info_urls),
    }
