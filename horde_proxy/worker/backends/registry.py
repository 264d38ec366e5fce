"""The kinds of backends. Opens a backend by the name, path or URL that a user gives."""

from __future__ import annotations

from dataclasses import dataclass

from horde_proxy.worker.backends import built_in, echo, ngram
from horde_proxy.worker.backends.base import Backend, BackendError, BackendOptions, OpenBackend
from horde_proxy.worker.backends.kobold import KoboldServer
from horde_proxy.worker.backends.ollama import OllamaServer
from horde_proxy.worker.backends.openai import OpenAIServer
from horde_proxy.worker.backends.server import is_url


@dataclass(frozen=True)
class BackendKind:
    """One kind. `choices` are what users write for it, as in "echo" or "the path of a GGUF file".

    `server` is the word for the servers that it finds at a URL.
    """

    open: OpenBackend
    choices: tuple[str, ...] = ()
    server: str | None = None


# The first that recognises the name wins. KoboldCpp comes before the other servers, because it
# also answers like Ollama and OpenAI, and Ollama before OpenAI for the same reason.
KINDS: tuple[BackendKind, ...] = (
    BackendKind(KoboldServer.open, server=KoboldServer.label),
    BackendKind(OllamaServer.open, server=OllamaServer.label),
    BackendKind(OpenAIServer.open, server=OpenAIServer.label),
    BackendKind(echo.open_echo, ("echo",)),
    BackendKind(ngram.open_ngram, ("ngram",)),
    BackendKind(built_in.open_model, ("smollm2", "the path of a GGUF file")),
)


def backend_choices() -> str:
    """All that a user may write, as in "echo, ngram, or the URL of a KoboldAI server"."""
    choices = [choice for kind in KINDS for choice in kind.choices]
    return ", ".join([*choices, f"or the URL of {_any_server()}"])


def _any_server() -> str:
    *most, last = (kind.server for kind in KINDS if kind.server)
    return f"a {', '.join(most)} or {last} server"


def open_backend(name: str, options: BackendOptions | None = None) -> Backend:
    """The backend of a name, a file's path or a server's URL. Raises BackendError."""
    for kind in KINDS:
        backend = kind.open(name, options or BackendOptions())
        if backend is not None:
            return backend
    if is_url(name):
        raise BackendError(f"{name} is not {_any_server()} with a model, or it is not running")
    raise BackendError(f"unknown backend {name!r}: use {backend_choices()}")
