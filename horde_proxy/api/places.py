"""Binds the current request to places: by its header, its body, its job or the alias that it names.

The request's scope (`g.scope`) gets narrower, and the router then has no other candidates. Which
endpoints are within a scope is decided in router/scope.py alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

from flask import g, request

from horde_proxy.api.internal_call import current_job
from horde_proxy.errors import InvalidRequest
from horde_proxy.json_reading import members, parse_json
from horde_proxy.places import FIELD, HEADER, PLACES, Binding, read_places
from horde_proxy.protocol.batches import split_lines
from horde_proxy.protocol.named_models import LIST_FIELDS, MOST_MODELS
from horde_proxy.router import EVERYTHING, Router, Scope
from horde_proxy.router.scope import PlacesExcluded, bound
from horde_proxy.upstreams.proxying import JsonBody


def scope_of_request(rights: Scope) -> Scope:
    """A client's rights within what the header and the job of the current request are bound to.

    Raises InvalidRequest for an unknown place, PlacesExcluded where no place is left.
    """
    bindings = []
    header = request.headers.get(HEADER)
    if header is not None:
        bindings.append(_binding(f"the header {HEADER}", header, HEADER))
    job = current_job()
    if job is not None and job.places is not None:
        bindings.append(Binding("this job", frozenset(job.places)))
    return bound(rights, *bindings)


def take_places(body: JsonBody) -> JsonBody:
    """The body without its field `places`, to which the request is then bound.

    The field is ours, and no server gets it. Raises InvalidRequest and PlacesExcluded.
    """
    document = body.document
    if not isinstance(document, dict) or not any(map(_is_field, document)):
        return body
    # A dictionary has only the last of several fields of one name.
    values = [value for name, value in members(body.content) if _is_field(name)]
    bind(*(_binding(f"the field `{FIELD}`", value, FIELD) for value in values))
    left = {name: value for name, value in document.items() if not _is_field(name)}
    return JsonBody(json.dumps(left).encode(), left)


def bind(*bindings: Binding) -> None:
    """Bind the current request further. Raises PlacesExcluded where no place is left."""
    g.scope = bound(g.get("scope", EVERYTHING), *bindings)


def bind_to_aliases(router: Router, *names: str | None) -> None:
    """Bind the current request to the places of the aliases that its models' names go through.

    All that it has done besides is bound as well, such as pictures or the stand-in for a model.
    """
    g.scope = router.scope_for([*filter(None, names)], g.scope)


def is_bound(router: Router, body: Any) -> bool:
    """Whether the body of a request is bound to places by itself: by its field, or by an alias.

    Such a body is no server's to run, which knows neither.
    """
    if not isinstance(body, dict):
        return False
    names = [body.get("model")]
    for field in LIST_FIELDS:
        entries = body.get(field)
        names += entries if isinstance(entries, list) else ()
    # More models than a request may name: it is kept here, where it is refused.
    if len(names) > MOST_MODELS + 1:
        return True
    # LiteLLM's entries are objects.
    names = [name.get("model") if isinstance(name, dict) else name for name in names]
    try:
        aliased = router.scope_for([name for name in names if isinstance(name, str)], EVERYTHING)
    except PlacesExcluded:
        return True
    return any(map(_is_field, body)) or bool(aliased.bindings)


def has_bound_line(router: Router, pieces: Iterable[bytes], longest: int) -> bool:
    """Whether a line of a batch's input is bound by itself; True for one beyond `longest` bytes."""
    for _, line in split_lines(pieces, longest):
        try:
            entry = parse_json(line) if line is not None else None
        # The server says what is wrong with such a line, in which nothing can be bound.
        except (ValueError, RecursionError):
            continue
        if line is None or (isinstance(entry, dict) and is_bound(router, entry.get("body"))):
            return True
    return False


def allowed_places() -> list[str] | None:
    """The places that the current request may reach, to be stored with a job; None: all."""
    scope: Scope = g.get("scope", EVERYTHING)
    if not scope.bindings:
        return None
    return [place for place in PLACES if all(place in binding.places for binding in scope.bindings)]


def refuse_in_form(names: Collection[str]) -> None:
    """Raises InvalidRequest for a form with the field: a form is passed on as it came."""
    if any(_is_field(name.partition("[")[0]) for name in names):
        raise InvalidRequest(
            f"A form cannot have the field `{FIELD}`. Send the header {HEADER} instead.",
            param=FIELD,
            code="unsupported_parameter",
        )


def _is_field(name: str) -> bool:
    """Whether a name is that of the field: "Places" is meant so, and must not mean "everywhere"."""
    return name.casefold() == FIELD


def _binding(holder: str, value: object, param: str) -> Binding:
    try:
        return Binding(holder, read_places(value))
    except ValueError as exc:
        raise InvalidRequest(
            f"{holder[:1].upper()}{holder[1:]} is wrong: {exc}.", param=param, code="invalid_value"
        ) from exc
