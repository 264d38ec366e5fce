"""The current request and what is kept with it, for code that every call passes.

Flask's `request` and `g` find their objects anew at each use, which takes about half a microsecond.
A function that needs one several times takes it from here once. No state of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import current_app, g, request

if TYPE_CHECKING:
    from flask import Flask, Request


def serving_app() -> Flask:
    """The app that Flask's `current_app` stands for."""
    proxy: Any = current_app
    app: Flask = proxy._get_current_object()
    return app


def current_request() -> Request:
    """The request that Flask's `request` stands for."""
    proxy: Any = request
    received: Request = proxy._get_current_object()
    return received


def current_values() -> Any:
    """The object with the request's values that Flask's `g` stands for."""
    proxy: Any = g
    return proxy._get_current_object()
