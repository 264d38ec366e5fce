"""The ids of answers, and the owners of those that endpoints store, noted while they are proxied.

An endpoint sees one key, the proxy's, for all clients. So only the owner that is noted here may
fetch, continue or delete such an answer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from horde_proxy.api.access_log import RequestLog
from horde_proxy.api.auth import account_name
from horde_proxy.api.context import AppContext
from horde_proxy.database.errors import DatabaseError
from horde_proxy.upstreams.proxying import JsonBody, ProxyRequest, ProxyResponse

# The first id in an answer is its own: {"id": "resp_68af..." or, in the first event of a stream,
# {"type":"response.created","response":{"id":"resp_68af...". For chats: {"id":"chatcmpl-...".
_ID = re.compile(rb'"id"\s*:\s*"(?P<id>[\w.:-]{1,200})"', re.ASCII)
_LONGEST_HEAD = 16_384
"""Bytes in which the id is looked for: servers write it first, or after a few other fields."""
# The paths whose answers endpoints may store, and whether they do where `store` is not set.
_STORED_BY_DEFAULT = {"responses": True, "chat/completions": False}

log = logging.getLogger(__name__)


class IdNote:
    """Notes the id of one answer as soon as it has come, before the client sees it."""

    def __init__(self, *notes: Callable[[str], None]) -> None:
        self._notes, self._head = notes, b""
        self._is_done = False

    def feed(self, data: bytes) -> None:
        """Read some more of the answer."""
        if self._is_done:
            return
        self._head += data[:_LONGEST_HEAD]
        match = _ID.search(self._head)
        if match is not None:
            for note in self._notes:
                note(match["id"].decode())
        self._is_done = match is not None or len(self._head) >= _LONGEST_HEAD


def id_note(
    ctx: AppContext, call: ProxyRequest, proxied: ProxyResponse, record: RequestLog
) -> IdNote | None:
    """What notes the id of the answer to a call; None for a call that no model answers.

    Who may fetch the answer later is noted where the endpoint stores it.
    """
    if call.method != "POST" or call.model is None or proxied.status >= 400:
        return None
    owner = _owner_note(ctx, call, proxied)
    in_record = partial(setattr, record, "answer_id")
    return IdNote(in_record) if owner is None else IdNote(owner, in_record)


def _owner_note(
    ctx: AppContext, call: ProxyRequest, proxied: ProxyResponse
) -> Callable[[str], None] | None:
    document: Any = call.body.document if isinstance(call.body, JsonBody) else None
    by_default = _STORED_BY_DEFAULT.get(call.path.partition("?")[0].rstrip("/"))
    if not isinstance(document, dict):
        return None
    store = ctx.store.proxied
    wishes = document.get("store")
    if store is None or by_default is None or not (by_default if wishes is None else wishes):
        return None
    endpoint = proxied.header("x-endpoint")
    return partial(_note, store.note, account_name(ctx), endpoint)


def _note(note: Callable[[str, str, str], None], owner: str, endpoint: str, identity: str) -> None:
    try:
        note(owner, identity, endpoint)
    except DatabaseError as exc:
        log.error("the owner of the answer %s could not be stored: %s", identity, exc)
