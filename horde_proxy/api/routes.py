"""The list of all routes: OpenAI's and what the proxy adds, with and without /v1.

Views read, call and return; they live in the modules that are named here.
"""

from __future__ import annotations

from flask import Flask

from horde_proxy.api import (
    background,
    batches,
    chat,
    compaction,
    completions,
    conversations,
    embeddings,
    endpoints,
    files,
    generations,
    health,
    history,
    hooks,
    horde,
    images,
    inspections,
    message_batches,
    messages,
    metrics,
    models,
    ollama,
    responses,
    statistics,
    stored_chats,
    stored_responses,
)
from horde_proxy.api.context import AppContext
from horde_proxy.api.openapi import view as openapi
from horde_proxy.web import admin_pages, first_run, inspector, page

_WITH_V1 = (
    chat.blueprint,
    completions.blueprint,
    responses.blueprint,
    embeddings.blueprint,
    background.blueprint,
    stored_responses.blueprint,
    compaction.blueprint,
    conversations.blueprint,
    stored_chats.blueprint,
    images.blueprint,
    images.pictures_blueprint,
    files.blueprint,
    batches.blueprint,
    messages.blueprint,
    message_batches.blueprint,
    models.blueprint,
    horde.blueprint,
    endpoints.blueprint,
    history.blueprint,
    generations.blueprint,
    inspections.blueprint,
    statistics.blueprint,
    openapi.blueprint,
)
"""The routes that are served below /v1 and without it."""


def register(app: Flask, context: AppContext) -> None:
    """Put the routes, the error envelopes and the common headers on an app."""
    app.extensions["horde_proxy"] = context
    # No redirects: clients lose the body of a POST that they send again elsewhere.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    for blueprint in _WITH_V1:
        app.register_blueprint(blueprint, url_prefix="/v1", name=f"{blueprint.name}_v1")
        app.register_blueprint(blueprint)
    app.before_request(statistics.keep_warm)
    # Ollama's clients add /api to the address of a server.
    for module in (health, metrics, ollama, page, admin_pages, first_run, inspector):
        app.register_blueprint(module.blueprint)
    app.register_blueprint(horde.webhook_blueprint)
    hooks.register(app)
