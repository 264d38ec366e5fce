"""The kinds of backends. Opens a backend by the name, path or URL that a user gives."""

from __future__ import annotations

from horde_proxy.worker.backends import built_in, echo, ngram
from horde_proxy.worker.backends.base import Backend, BackendError, BackendOptions, OpenBackend
from horde_proxy.worker.backends.kobold import KoboldServer
from horde_proxy.worker.backends.ollama import OllamaServer
from horde_proxy.worker.backends.openai import OpenAIServer
from horde_proxy.worker.backends.server import is_url

# The first that recognises the name wins. KoboldCpp comes before the other servers, because it
# also answers like Ollama and OpenAI, and Ollama before OpenAI for the same reason.
KINDS: tuple[OpenBackend, ...] = (
    KoboldServer.open,
    OllamaServer.open,
    OpenAIServer.open,
    echo.open_echo,
    ngram.open_ngram,
    built_in.open_model,
)


def open_backend(name: str, options: BackendOptions | None = None) -> Backend:
    """The backend of "echo", "ngram", "smollm2", a GGUF file's path or a server's URL.

    Raises BackendError.
    """
    for open_kind in KINDS:
        backend = open_kind(name, options or BackendOptions())
        if backend is not None:
            return backend
    if is_url(name):
        raise BackendError(
            f"{name} is not a KoboldAI, Ollama or OpenAI-compatible server with a model, "
            "or it is not running"
        )
    raise BackendError(
        f"unknown backend {name!r}: use smollm2, ngram, echo, the path of a GGUF file, or the URL "
        "of a server"
    )
