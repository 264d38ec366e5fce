"""The X-Fields header: which fields of an answer a client wants, and nothing else of it.

Pure. `name,count` or `{name,kudos_details{generated}}`; `*` stands for all the others. A name
that the answer does not have comes back as null, as from flask-restx.
"""

from __future__ import annotations

import re
from typing import Any

from horde_proxy.private_horde.errors import HordeError

_DEEPEST = 20
_TOKEN = re.compile(r"\s*([{},*]|[\w:-]+)\s*")

Mask = dict[str, "Mask | None"]


def apply(header: str | None, body: Any) -> Any:
    """Return what of a JSON value the header asks for; raises HordeError 400 for a broken mask."""
    if not header:
        return body
    tokens = _tokens(header)
    if tokens[0] == "{":
        tokens.pop(0)
    else:
        tokens.append("}")
    mask = _fields(tokens)
    if tokens:
        raise _broken()
    return _masked(mask, body)


def _masked(mask: Mask | None, body: Any) -> Any:
    if mask is None:
        return body
    if isinstance(body, list):
        return [_masked(mask, each) for each in body]
    if not isinstance(body, dict):
        return body
    wanted = {name: _masked(inner, body.get(name)) for name, inner in mask.items() if name != "*"}
    rest = {name: each for name, each in body.items() if name not in mask} if "*" in mask else {}
    return wanted | rest


def _fields(tokens: list[str]) -> Mask:
    """Read fields up to and including the closing brace, using up `tokens`."""
    mask: Mask = {}
    while True:
        name = _take(tokens)
        if name in ("{", "}", ","):
            raise _broken()
        mask[name] = None
        after = _take(tokens)
        if after == "{":
            mask[name] = _fields(tokens)
            after = _take(tokens)
        if after == "}":
            return mask
        if after != ",":
            raise _broken()


def _take(tokens: list[str]) -> str:
    if not tokens:
        raise _broken()
    return tokens.pop(0)


def _tokens(header: str) -> list[str]:
    found = [match.group(1) for match in _TOKEN.finditer(header)]
    complete = "".join(found) == re.sub(r"\s+", "", header)
    if not found or not complete or found.count("{") > _DEEPEST:
        raise _broken()
    return found


def _broken() -> HordeError:
    return HordeError(400, "X-Fields cannot be read; write it like name,count or name,team{id}.")
