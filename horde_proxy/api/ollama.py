"""The front of Ollama's API, at the root of the server: /api/chat, /api/tags and the rest of them.

Models belong to the horde and to the endpoints: they can be listed, shown and used here, but not
made or deleted. Home Assistant pulls a model before it uses it, which succeeds for a listed one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, g, jsonify, request

from horde_proxy.api.auth import authenticate, check_limits, read_json
from horde_proxy.api.context import AppContext, ServingOptions, current_context
from horde_proxy.api.embeddings import embedding_candidates, embeddings_of
from horde_proxy.api.front import Front
from horde_proxy.api.generation import run_generation
from horde_proxy.api.inspections import begin_inspection
from horde_proxy.api.named_models import document_with_one_model
from horde_proxy.api.proxying import candidates_for
from horde_proxy.errors import InvalidRequest, ModelNotFound, Refused
from horde_proxy.numbers import finite
from horde_proxy.prompts.fill_in import FilledPrompt, can_fill_in, fill_in_prompt
from horde_proxy.protocol.content_parts import shows_pictures
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.models import is_available
from horde_proxy.protocol.ollama import models as listing
from horde_proxy.protocol.ollama.answers import OllamaLines, fold_ollama, load_chunks
from horde_proxy.protocol.ollama.embeddings import (
    embed_answer,
    embed_body,
    older_embed_answer,
    older_embed_body,
    vectors_in,
)
from horde_proxy.protocol.ollama.requests import (
    AnswerTimes,
    OllamaQuestion,
    ReadingRules,
    model_of,
    read_generate,
    read_ollama_chat,
)
from horde_proxy.protocol.sse import one_line
from horde_proxy.router import Candidates
from horde_proxy.upstreams.proxying import JsonBody

NDJSON = "application/x-ndjson"
"""Lines of JSON, each a whole document."""

blueprint = Blueprint("ollama", __name__, url_prefix="/api")
_LATEST = 32_503_680_000
"""The year 3000 in Unix time: what is later are milliseconds, or no time."""
_REFUSED = "models on this server are provided by the horde"


@blueprint.errorhandler(ModelNotFound)
def _model_not_found(exc: ModelNotFound) -> Response:
    """Ollama's words, in which clients look for "not found"."""
    g.record.error = exc.code
    hint = f"; available: {', '.join(exc.near)}" if exc.near else ""
    return _refusal(404, f"model '{exc.model}' not found{hint}")


@blueprint.before_request
def _authenticate() -> None:
    # Clients look for the version first, some of them before they have asked for a key.
    if request.endpoint != f"{blueprint.name}.version":
        authenticate()


@blueprint.get("/version")
def version() -> Response:
    """The version of Ollama whose API this is, and our own, by which a worker knows a proxy."""
    ours = current_context().serving.version
    return jsonify({"version": listing.OLLAMA_VERSION, "horde_proxy": ours})


@blueprint.get("/tags")
def tags() -> Response:
    """All models that write texts or embed, and are available now."""
    ctx = current_context()
    describes = ctx.serving.keeps_pictures
    return jsonify(
        {
            "models": [
                listing.listed_model(entry, _modified_at(entry), describes_pictures=describes)
                for entry in _usable_models(ctx)
            ]
        }
    )


@blueprint.get("/ps")
def running() -> Response:
    """The models that are in memory: at workers of a horde, or as their servers say."""
    ctx = current_context()
    expires_at = _written(ctx.now() + listing.LOADED_SECONDS)
    entries = filter(listing.is_running, _usable_models(ctx))
    return jsonify({"models": [listing.running_model(entry, expires_at) for entry in entries]})


@blueprint.post("/show")
def show() -> Response:
    """What is known of a model: context, capabilities, size."""
    ctx = current_context()
    entry = ctx.router.model(model_of(_document()), g.scope)
    return jsonify(
        listing.shown_model(
            entry,
            _modified_at(entry),
            describes_pictures=ctx.serving.keeps_pictures,
            inserts=can_fill_in(entry["id"]),
        )
    )


@blueprint.post("/chat")
def chat() -> Response:
    """An answer to a chat, or its pieces as lines of JSON."""
    return run_generation(_CHAT)


@blueprint.post("/generate")
def generate() -> Response:
    """An answer to a prompt, or its pieces as lines of JSON."""
    return run_generation(_GENERATE)


@blueprint.post("/embed")
def embed() -> Response:
    """The embeddings of texts, by an endpoint that has them."""
    ctx = current_context()
    began = ctx.clock()
    received = _document()
    body = embed_body(document_with_one_model(received))
    response, vectors, answer = _embedded(ctx, received, body)
    usage = answer.get("usage")
    document = embed_answer(body["model"], vectors, usage, ctx.clock() - began)
    return _with_json(response, document)


@blueprint.post("/embeddings")
def older_embed() -> Response:
    """The embedding of one text: the older route."""
    received = _document()
    body = older_embed_body(document_with_one_model(received))
    response, vectors, _ = _embedded(current_context(), received, body)
    return _with_json(response, older_embed_answer(vectors))


@blueprint.post("/pull")
def pull() -> Response:
    """Success for a model that is listed: nothing has to be fetched."""
    document = _document()
    try:
        current_context().router.model(model_of(document), g.scope)
    except ModelNotFound as exc:
        g.record.error = exc.code
        return _refusal(404, "pull model manifest: file does not exist")
    steps = ["pulling manifest", "success"]
    if document.get("stream") is False:
        return jsonify({"status": steps[-1]})
    lines = b"".join(one_line({"status": step}) + b"\n" for step in steps)
    return Response(lines, content_type=NDJSON)


@blueprint.post("/push")
@blueprint.post("/create")
@blueprint.post("/copy")
@blueprint.post("/blobs/<digest>")
@blueprint.delete("/delete")
def change_models(digest: str = "") -> Response:
    """A refusal: nobody can make, copy or delete models here."""
    raise Refused(_REFUSED)


def _document() -> dict[str, Any]:
    """The decoded body. Raises InvalidRequest."""
    document = read_json().document
    if not isinstance(document, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    return document


def _usable_models(ctx: AppContext) -> Iterator[dict[str, Any]]:
    """The models that write texts or embed. Those of pictures are not for this API."""
    for entry in ctx.router.models(g.scope):
        if is_available(entry) and listing.capabilities(entry, describes_pictures=False):
            yield entry


def _embedded(
    ctx: AppContext, received: dict[str, Any], body: dict[str, Any]
) -> tuple[Response, list[list[float]], dict[str, Any]]:
    """(a response for the answer, the vectors, OpenAI's answer); without texts, no vectors."""
    check_limits()
    begin_inspection(ctx, JsonBody(b"", received))
    if not body["input"]:
        embedding_candidates(ctx, body["model"])
        return Response(), [], {}
    response, answer = embeddings_of(ctx, body)
    try:
        return response, vectors_in(answer, len(body["input"])), answer
    except BaseException:
        response.close()
        raise


def _with_json(response: Response, document: dict[str, Any]) -> Response:
    """The response with another body."""
    response.set_data(one_line(document) + b"\n")
    response.content_type = "application/json"
    return response


def _refusal(status: int, text: str) -> Response:
    response = jsonify({"error": text})
    response.status_code = status
    return response


def _rules(ctx: AppContext) -> ReadingRules:
    serving = ctx.serving
    # An endpoint may have a model that sees, also where the horde's pictures are not described.
    keeps_pictures = serving.keeps_pictures or ctx.router.can_proxy
    return ReadingRules(serving.strict, keeps_pictures, serving.completion_tokens)


def _times(ctx: AppContext) -> AnswerTimes:
    return AnswerTimes(lambda: _written(ctx.now()), ctx.clock, ctx.clock())


def _written(seconds: float) -> str:
    """A Unix time as Go writes it: "2026-11-29T21:30:00.000000Z"."""
    written = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
    return written.removesuffix("+00:00") + "Z"


def _modified_at(entry: Mapping[str, Any]) -> str:
    """When a model was made, as far as its entry says it."""
    return _written(finite(entry.get("created"), _LATEST) or 0.0)


def _read_chat(body: Any, serving: ServingOptions) -> OllamaQuestion:
    ctx = current_context()
    return read_ollama_chat(body, _rules(ctx), _times(ctx))


def _read_generate(body: Any, serving: ServingOptions) -> OllamaQuestion:
    ctx = current_context()
    return read_generate(body, _rules(ctx), _times(ctx), _fill_in)


def _fill_in(name: str, before: str, after: str) -> FilledPrompt | None:
    """See fill_in_prompt; by the model's full name, since the client's may be an alias."""
    entry = current_context().router.model(name, g.scope)
    return fill_in_prompt(entry.get("full_id") or entry["id"], before, after)


def _seeing_first(ctx: AppContext, generation: GenerationRequest) -> Candidates:
    """The candidates for a chat; with pictures, those that look at them first."""
    candidates = candidates_for(ctx, generation.model, generation)
    if shows_pictures(generation.source):
        candidates.prefer_seeing()
    return candidates


_CHAT = Front(
    _read_chat,
    fold_ollama,
    OllamaLines,
    candidates=_seeing_first,
    ready=load_chunks,
    content_type=NDJSON,
)
_GENERATE = replace(_CHAT, read=_read_generate)
