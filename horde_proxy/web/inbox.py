"""The page's inbox: the visitor's own background responses, with their state and their answers.

Without keys all clients are one owner, so that only a visitor on this machine sees their answers.
Where clients bring keys of the horde, the page knows no visitor, and there is no inbox.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from horde_proxy.api.auth import account_name, is_operator
from horde_proxy.api.context import AppContext
from horde_proxy.database.errors import DatabaseError
from horde_proxy.web.tables import seconds

if TYPE_CHECKING:
    from horde_proxy.store.jobs import JobStore
    from horde_proxy.store.responses import ResponseStore

_MOST = 20
"""Responses that are shown, the newest ones."""
_LONGEST_QUESTION, _LONGEST_ANSWER = 200, 20_000
"""Characters that are shown."""
_TONES = {"completed": "good", "incomplete": "warn", "failed": "bad"}
_STATES = {"in_progress": "in progress"}


def may_see(ctx: AppContext) -> bool:
    """Whether the visitor has an inbox."""
    return not ctx.access.passthrough and (ctx.access.requires_key or is_operator())


def inbox(ctx: AppContext) -> list[dict[str, Any]] | None:
    """The visitor's background responses, the newest first; None where there is no inbox.

    Each has `id`, `model`, `question`, `answer`, `state`, `tone`, `iso` and `began` (UTC), and
    `is_running`.
    """
    store, jobs = ctx.store.responses, ctx.store.jobs
    if store is None or jobs is None or not may_see(ctx):
        return None
    if not jobs.exists:
        return []
    try:
        return _entries(store, jobs, account_name(ctx))
    except DatabaseError:
        return None


def _entries(store: ResponseStore, jobs: JobStore, owner: str) -> list[dict[str, Any]]:
    ids = jobs.background(owner, _MOST)
    if not ids:
        return []
    positions, journals = jobs.positions(owner), jobs.journals(owner)
    entries = []
    for response_id in ids:
        stored = store.get(owner, response_id)
        if stored is not None:
            progress = journals.get(response_id, {}).get("progress", {})
            question = _text(store.input_items(owner, response_id)[-1:])
            place = positions.get(response_id)
            entries.append(_entry(stored.response, question, _wait(place, progress)))
    return entries


def _entry(response: Mapping[str, Any], question: str, wait: str) -> dict[str, Any]:
    began = datetime.fromtimestamp(response["created_at"], UTC)
    state, error = response["status"], response.get("error")
    is_running = state in ("queued", "in_progress")
    words = _STATES.get(state, state)
    answer = _text(response["output"]) or (error["message"] if error else "")
    return {
        "id": response["id"],
        "model": response["model"],
        "question": _shortened(question, _LONGEST_QUESTION),
        "answer": _shortened(answer, _LONGEST_ANSWER),
        "state": f"{words}, {wait}" if is_running and wait else words,
        "tone": _TONES.get(state, ""),
        "iso": began.isoformat(timespec="seconds"),
        "began": f"{began:%d %b %H:%M} UTC",
        "is_running": is_running,
    }


def _wait(place: int | None, progress: Mapping[str, Any]) -> str:
    """What is known of the wait: "position 3" in our own line, or what the horde says."""
    if place is not None:
        return f"position {place}"
    parts = []
    if progress.get("position"):
        parts.append(f"position {progress['position']}")
    if progress.get("seconds"):
        parts.append(f"about {seconds(progress['seconds'])}")
    return ", ".join(parts)


def _text(items: Sequence[Mapping[str, Any]]) -> str:
    """The texts of messages, one after the other."""
    return "\n\n".join(filter(None, map(_message_text, items)))


def _message_text(item: Mapping[str, Any]) -> str:
    content = item.get("content")
    if isinstance(content, str):
        return content
    parts: Iterable[Any] = content if isinstance(content, list) else ()
    texts = (part.get("text") or part.get("refusal") for part in parts if isinstance(part, Mapping))
    return "".join(text for text in texts if isinstance(text, str))


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
