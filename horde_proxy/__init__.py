"""horde-proxy: one OpenAI endpoint for a home, in front of the AI Horde and other servers.

`create_app` and `reconfigure` are imported when they are first used: gunicorn's master process and
most commands run without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from horde_proxy.version import VERSION

if TYPE_CHECKING:
    from horde_proxy.app.factory import create_app, reconfigure
    from horde_proxy.config import Config

__all__ = ["Config", "create_app", "reconfigure"]
__version__ = VERSION


def __getattr__(name: str) -> Any:
    """Import a name of __all__ on its first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from horde_proxy import config
    from horde_proxy.app import factory

    return getattr(config if name == "Config" else factory, name)
