"""horde-proxy: one OpenAI endpoint for a home, in front of the AI Horde and other servers.

`create_app` is imported when it is asked for: most commands, and the process that only watches
over the server, do without it.
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
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from horde_proxy import config
    from horde_proxy.app import factory

    return getattr(config if name == "Config" else factory, name)
