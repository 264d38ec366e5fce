"""The X-Fields header: a mask that selects the fields of an answer.

Pure. Masks look like `name,count` or `{name,kudos_details{generated}}`; `*` means all other fields.
As in flask-restx, a field that the answer does not have becomes null (captures xfields_*).
"""

from __future__ import annotations

import re
from typing import Any

from horde_proxy.private_horde.errors import HordeError

# Braces in one mask: more levels than any answer has, and few enough for recursion.
_DEEPEST = 20
# Characters. A field that an answer does not have becomes null in each element of a list: a mask of
# 64 kB would make 30 MB of a list of 100 workers. All fields of the longest answer are 700.
_LONGEST = 2000
# Braces, commas, "*" and names: "name", "kudos_details", "post-processing".
_TOKEN = re.compile(r"\s*([{},*]|[\w:-]+)\s*")

Mask = dict[str, "Mask | None"]


def apply(header: str | None, body: Any) -> Any:
    """The fields of a JSON value that the header selects. A bad mask raises HordeError (400)."""
    if not header:
        return body
    if len(header) > _LONGEST:
        raise _broken()
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
        return [_masked(mask, item) for item in body]
    if not isinstance(body, dict):
        return body
    fields = {name: _masked(inner, body.get(name)) for name, inner in mask.items() if name != "*"}
    if "*" not in mask:
        return fields
    return fields | {name: value for name, value in body.items() if name not in mask}


def _fields(tokens: list[str]) -> Mask:
    """The mask up to the next closing brace. Removes its tokens and the brace from the list."""
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
    tokens = [match.group(1) for match in _TOKEN.finditer(header)]
    complete = "".join(tokens) == re.sub(r"\s+", "", header)
    if not tokens or not complete or tokens.count("{") > _DEEPEST:
        raise _broken()
    return tokens


def _broken() -> HordeError:
    return HordeError(
        400, "X-Fields is not a valid mask; write it like name,count or name,team{id}."
    )
