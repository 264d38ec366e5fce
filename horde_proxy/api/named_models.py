"""The further models that the current request names: its own fallbacks.

They are found where the body is read, kept in `g`, and given to the router with the model's name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from flask import Response, g

from horde_proxy.protocol.named_models import read_named_models
from horde_proxy.router import Candidates
from horde_proxy.upstreams.proxying import Body, JsonBody, header_text

_Kind = TypeVar("_Kind", bound=Body)
_LONGEST_SHOWN = 100
"""Characters of a client's name that a header repeats."""


def with_one_model(body: _Kind) -> _Kind | JsonBody:
    """The body with one model; the further ones are those of the request from now on.

    Raises InvalidRequest with param.
    """
    document = document_with_one_model(body.document) if isinstance(body, JsonBody) else None
    if not isinstance(body, JsonBody) or document is body.document:
        return body
    return JsonBody(json.dumps(document).encode(), document)


def document_with_one_model(document: Any) -> Any:
    """The same for a decoded body. A body without a list of models is returned itself."""
    named = read_named_models(document)
    if named is None:
        return document
    g.further_models = named.further
    g.warnings.extend(named.warnings)
    return named.document


def further_models() -> Sequence[str]:
    """The models that may answer where the first one does not, the best first."""
    names: Sequence[str] = g.get("further_models", ())
    return names


def warn_of_missing(candidates: Candidates) -> None:
    """Say in the answer which models of the request nothing offers now."""
    for name in candidates.missing:
        shown = header_text(name[:_LONGEST_SHOWN])
        g.warnings.append(f"models: '{shown}' is not offered to this request now, and was left out")


def name_answerer(response: Response, model: str | None) -> None:
    """Have the response to a request of several models name the one that answers."""
    if model and further_models():
        response.headers.setdefault("X-Horde-Model", header_text(model))
