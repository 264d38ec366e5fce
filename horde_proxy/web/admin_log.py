"""The section of the requests: who used which model where, how it went, what it cost.

It shows the records of answers, which have no prompts and no texts (store.generation_record).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from horde_proxy.api.context import AppContext
from horde_proxy.store.generation_filter import ANSWERED, FAILED, GenerationFilter
from horde_proxy.store.generation_record import GenerationRecord
from horde_proxy.web.admin_section import AdminSection, SectionFacts
from horde_proxy.web.list_pages import PAGE, ListPage, page_number

_PER_PAGE = 50
_FIELDS = ("key", "model", "endpoint", "status", "from", "to")
_MOST_WORKERS = 20


def _load(ctx: AppContext, arguments: Mapping[str, str]) -> SectionFacts:
    """A page of the records that the fields of the address select, the newest first."""
    fields = {name: arguments.get(name, "").strip() for name in _FIELDS}
    wanted, problem = _filter(fields)
    number = page_number(arguments)
    offset = (number - 1) * _PER_PAGE
    # One more than is shown tells whether there is a next page.
    records = ctx.store.generations.search(wanted, limit=_PER_PAGE + 1, offset=offset)
    rows = [_row(owner, record) for owner, record in records[:_PER_PAGE]]
    return {
        "page": ListPage(rows, number, len(rows), len(records) > _PER_PAGE),
        "fields": fields,
        "filter_problem": problem,
        "is_kept": ctx.store.generations.is_kept,
        "days": ctx.store.days,
        "endpoint_names": [endpoint.name for endpoint in ctx.router.endpoints],
        "outcomes": (("", "any"), (ANSWERED, "answered"), (FAILED, "failed")),
    }


def _filter(fields: Mapping[str, str]) -> tuple[GenerationFilter, str]:
    """The filter of the fields, and what is wrong with one of them; "" for nothing."""
    first, last = _moment(fields["from"]), _moment(fields["to"])
    status, problem = fields["status"], ""
    is_number = status.isascii() and status.isdigit() and len(status) == 3
    if status not in ("", ANSWERED, FAILED) and not is_number:
        problem = "The status is answered, failed, or a number such as 503."
    for field, moment in (("from", first), ("to", last)):
        if fields[field] and moment is None:
            problem = "Write a time as 2026-01-31T18:00; it is UTC's."
    wanted = GenerationFilter(
        owner=fields["key"] or None,
        model=fields["model"] or None,
        endpoint=fields["endpoint"] or None,
        status=int(status) if is_number else None,
        outcome=status if status in (ANSWERED, FAILED) else None,
        first=first,
        # A minute is meant as a whole.
        last=None if last is None else last + 59,
    )
    return wanted, problem


def _moment(text: str) -> float | None:
    """The Unix time of a field for dates and times, "2026-01-31T18:00", which is UTC's."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None


def _row(owner: str, record: GenerationRecord) -> dict[str, Any]:
    horde = record.horde or {}
    workers = horde.get("workers")
    names = [
        str(worker.get("name") or worker.get("id") or "")
        for worker in (workers if isinstance(workers, list) else [])[:_MOST_WORKERS]
        if isinstance(worker, Mapping)
    ]
    return {"owner": owner, "record": record, "workers": [name for name in names if name]}


LOG = AdminSection("Requests", _load, arguments=(*_FIELDS, PAGE))
