"""What the proxy says of routes that it knows and does not serve, and in which API's shape.

A bare "Invalid URL" was read as a missing model. So each such route says what it is, what to use
instead, and which setting adds it. `_TABLE` is the one list of them: whoever serves one of them
deletes its line, unless errors of that route have another shape than OpenAI's. A known route under
/v1 is proxied where an endpoint can proxy, so that these sentences are for proxies that have hordes
only. Statuses stay 404 and 405, since many clients try another route after these.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from horde_proxy.protocol import error_shapes
from horde_proxy.protocol.error_shapes import Shape

_LONGEST_PATH = 200
"""Characters of a path that an error repeats; it may be kilobytes long."""


class _Family(NamedTuple):
    """The routes below a path, which is written without /v1. A `{path}` in `sentence` is it."""

    path: str
    shape: Shape
    sentence: str


_ADD_ENDPOINT = (
    " To add it, put a server that has it under [[endpoints]] in the settings, with the type "
    "`openai`."
)
_USE_CHATS = (
    "{path} is not served here. Let the client use chat completions: POST /v1/chat/completions."
    + _ADD_ENDPOINT
)
_NO_MESSAGES = (
    "{path} is not served here. Of Anthropic's API there are POST /v1/messages, POST "
    "/v1/messages/count_tokens, /v1/messages/batches and GET /v1/models." + _ADD_ENDPOINT
)
NOT_FROM_HORDES = (
    "{path} is not served here: hordes only write texts and make pictures." + _ADD_ENDPOINT
)
_USE_ENGINE = (
    "{path} is OpenAI's older way to choose a model, which is not served here. GET /v1/models "
    "lists the models; name one in the body of POST /v1/chat/completions or /v1/completions."
)
_NO_AZURE = (
    "Azure's routes ({path}) are not served here, and no setting adds them. Use the client for "
    "OpenAI instead of the one for Azure, with this address and /v1 as its base URL, and name the "
    "deployment as the model."
)
_NO_HORDE = (
    "AI-Horde's API is not served at {path}. The private horde serves it below /api/v2/ where "
    "private_horde.enabled = true; a change of this setting needs a restart."
)
_NO_OLLAMA = (
    "{path} is a route of Ollama's API that is not served here. Served are /api/chat, "
    "/api/generate, /api/embed, /api/tags, /api/show and /api/ps."
)
_NO_OTHER_API = (
    "This API ({path}) is not served here, and no setting adds it. Choose an OpenAI-compatible "
    "server in the client, with this address and /v1 as its base URL."
)

# The first line that fits counts. Sources: the API references of OpenAI, Anthropic and Google, and
# vLLM's for rerank and score; Ollama's docs/api.md; KoboldCpp's /api; AI-Horde's /api/v2.
_TABLE = (
    _Family("assistants", error_shapes.openai, _USE_CHATS),
    _Family("threads", error_shapes.openai, _USE_CHATS),
    # Also the shape of errors of the routes below it that are served.
    _Family("messages", error_shapes.anthropic, _NO_MESSAGES),
    _Family("complete", error_shapes.anthropic, _NO_MESSAGES),
    _Family("embeddings", error_shapes.openai, NOT_FROM_HORDES),
    _Family("videos", error_shapes.openai, NOT_FROM_HORDES),
    _Family("audio", error_shapes.openai, NOT_FROM_HORDES),
    _Family("realtime", error_shapes.openai, NOT_FROM_HORDES),
    _Family("moderations", error_shapes.openai, NOT_FROM_HORDES),
    _Family("rerank", error_shapes.openai, NOT_FROM_HORDES),
    _Family("score", error_shapes.openai, NOT_FROM_HORDES),
    _Family("uploads", error_shapes.openai, NOT_FROM_HORDES),
    _Family("vector_stores", error_shapes.openai, NOT_FROM_HORDES),
    _Family("conversations", error_shapes.openai, NOT_FROM_HORDES),
    _Family("containers", error_shapes.openai, NOT_FROM_HORDES),
    _Family("evals", error_shapes.openai, NOT_FROM_HORDES),
    _Family("fine_tuning", error_shapes.openai, NOT_FROM_HORDES),
    _Family("engines", error_shapes.openai, _USE_ENGINE),
    _Family("openai/deployments", error_shapes.openai, _NO_AZURE),
    # With the private horde on, no path below /api/v2/ gets here (app/private.py).
    _Family("api/v2", error_shapes.horde, _NO_HORDE),
    _Family("api/v1", error_shapes.kobold, _NO_OTHER_API),
    _Family("api/latest", error_shapes.kobold, _NO_OTHER_API),
    _Family("api/extra", error_shapes.kobold, _NO_OTHER_API),
    # Ollama's; most of them are served (api/ollama.py).
    _Family("api", error_shapes.ollama, _NO_OLLAMA),
    _Family("v1beta", error_shapes.google, _NO_OTHER_API),
)

# "/v1/v1/chat/completions": the client adds /v1 to a base URL that ends in it already.
_REPEATED_V1 = re.compile(r"/*v1/+v1(?:/|$)")
# "/v1/chat/completions/chat/completions": the base URL is the whole address of a route.
_REPEATED_CHAT = re.compile(r"/*(?:v1/+)?chat/completions/+(?:v1/+)?chat/completions/*$")
# "/v1/api/chat": a client of Ollama's API has the base URL of OpenAI's.
_V1_BEFORE_OLLAMA = re.compile(r"/*v1/+api/(?!v1/|v2/|extra/|latest/)")
# "/api/v1/chat/completions" (OpenRouter), "/openai/v1/models" (Groq): the base URL of another
# server. Of the APIs in the table, four have routes of their own that end like this.
_OTHER_BASE = re.compile(
    r"(?!(?:/v1)?/engines/|/openai/deployments/|/api/v2/|/v1beta/models)"
    r"/.+?/(?P<route>chat/completions|completions|models)/?$"
)


def is_wrong_base_url(path: str) -> bool:
    """Whether a path has a part of the base URL twice, so that no server can have it."""
    return bool(_REPEATED_V1.match(path) or _REPEATED_CHAT.match(path))


def explanation(path: str) -> str | None:
    """What to do instead of a request to a path that is not served; None for an unknown path."""
    family = _family(path)
    sentence = _wrong_base_url(path) or (family.sentence if family else None)
    return sentence and sentence.replace("{path}", path[:_LONGEST_PATH])


def shape_of(path: str) -> Shape:
    """The shape of errors at a path without a route of ours; OpenAI's for an unknown path."""
    family = None if _OTHER_BASE.match(path) else _family(path)
    return family.shape if family else error_shapes.openai


def _wrong_base_url(path: str) -> str | None:
    """How to correct a client's base URL that leads to a path; None if that is not the fault."""
    if _REPEATED_V1.match(path):
        return (
            "{path} has /v1 twice: the client adds it to its base URL, which ends in /v1 already. "
            "Remove /v1 from the base URL."
        )
    if _REPEATED_CHAT.match(path):
        return (
            "{path} has /chat/completions twice: the client adds it to its base URL. Set the base "
            "URL to this address and /v1."
        )
    if _V1_BEFORE_OLLAMA.match(path):
        return "{path} has /v1 before Ollama's /api. Remove /v1 from the base URL."
    if "//" in path:
        return "{path} has two slashes in a row. Remove the slash at the end of the base URL."
    if path.strip("/") == "v1":
        return (
            "{path} is the base URL of OpenAI's API here, and no route. Clients add "
            "/chat/completions to it; GET /v1/models lists the models."
        )
    if other := _OTHER_BASE.match(path):
        return (
            f"{{path}} does not exist here. Set the client's base URL to this address and /v1, so "
            f"that it calls /v1/{other['route']}."
        )
    return None


def _family(path: str) -> _Family | None:
    # A client of another API may have /v1 in its base URL: "/v1/api/chat", "/v1/v1/messages".
    plain = re.sub(r"^(?:v1/+)+", "", path.strip("/"))
    return next((family for family in _TABLE if f"{plain}/".startswith(f"{family.path}/")), None)
