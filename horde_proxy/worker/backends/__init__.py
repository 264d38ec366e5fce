"""What a worker drives: built-in models, and servers of several kinds.

A backend is one module here and one line in `registry`, which opens it by its name, path or URL.
"""

from horde_proxy.worker.backends.base import Backend, BackendError, BackendOptions, Payload
from horde_proxy.worker.backends.registry import open_backend

__all__ = ["Backend", "BackendError", "BackendOptions", "Payload", "open_backend"]
