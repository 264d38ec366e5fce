"""Flask for apps that are made often, and whose hooks every call passes. No routes, no settings.

Every start makes one, and most tests do. Werkzeug would spend four fifths of that time compiling
the functions that build the URLs of all routes, of which hardly any is ever called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask
from werkzeug.routing import Rule

from horde_proxy.bodies import Request


class _LazyRule(Rule):
    """A route whose function for building its URL is compiled at its first use."""

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        """What werkzeug compiles, made once it is called. Werkzeug calls this for each rule."""
        compile_now = super()._compile_builder
        compiled: Callable[..., tuple[str, str]] | None = None

        # Bound to the rule by werkzeug, as its own functions are.
        def build(rule: Rule, /, **values: Any) -> tuple[str, str]:
            nonlocal compiled
            if compiled is None:
                compiled = compile_now(append_unknown)
            return compiled(rule, **values)

        return build


class LeanFlask(Flask):
    """Flask with our requests, without coroutines, and with routes that are compiled lazily."""

    request_class = Request
    url_rule_class = _LazyRule

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself. Flask would look at each hook and view of each call for `async`."""
        return func
