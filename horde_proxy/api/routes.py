"""The list of all routes: OpenAI's and what the proxy adds, with and without /v1.

Views read, call and return; they live in the modules that are named here.
"""

from __future__ import annotations

from flask import Flask

from horde_proxy.api import (
    chat,
    completions,
    endpoints,
    health,
    hooks,
    horde,
    images,
    metrics,
    models,
    statistics,
)
from horde_proxy.api.context import AppContext
from horde_proxy.web import page


def register(app: Flask, context: AppContext) -> None:
    """Put the routes, the error envelopes and the common headers on an app."""
    app.extensions["horde_proxy"] = context
    # No redirects: clients lose the body of a POST that they send again elsewhere.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    for blueprint in (
        chat.blueprint,
        completions.blueprint,
        images.blueprint,
        images.pictures_blueprint,
        models.blueprint,
        horde.blueprint,
        endpoints.blueprint,
        statistics.blueprint,
    ):
        app.register_blueprint(blueprint, url_prefix="/v1", name=f"{blueprint.name}_v1")
        app.register_blueprint(blueprint)
    app.before_request(statistics.keep_warm)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(metrics.blueprint)
    app.register_blueprint(page.blueprint)
    app.register_blueprint(horde.webhook_blueprint)
    hooks.register(app)
