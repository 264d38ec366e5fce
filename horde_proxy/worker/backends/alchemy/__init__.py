"""The backends of a worker for alchemy: vision models that describe pictures, and upscalers.

Each kind is a module here; `registry` opens them by the URL of their server.
"""

from horde_proxy.worker.backends.alchemy.base import AlchemyBackend
from horde_proxy.worker.backends.alchemy.registry import open_alchemy

__all__ = ["AlchemyBackend", "open_alchemy"]
