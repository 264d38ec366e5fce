"""The backends of a worker: built-in models, and model servers of several kinds.

Each kind of backend is a module here and a line in `registry`, which opens backends by their name,
path or URL.
"""

from horde_proxy.worker.backends.base import (
    Backend,
    BackendDown,
    BackendError,
    BackendOptions,
    ChatUnsupported,
    JobRefused,
    Payload,
    ReportsState,
    ServerState,
    StreamsChat,
)
from horde_proxy.worker.backends.registry import (
    backend_choices,
    open_backend,
    open_backends,
    server_kinds,
)

__all__ = [
    "Backend",
    "BackendDown",
    "BackendError",
    "BackendOptions",
    "ChatUnsupported",
    "JobRefused",
    "Payload",
    "ReportsState",
    "ServerState",
    "StreamsChat",
    "backend_choices",
    "open_backend",
    "open_backends",
    "server_kinds",
]
