"""The kinds of backends. Opens a backend by the name, path or URL that a user gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from horde_proxy.printable import without_login
from horde_proxy.worker.backends import built_in, echo, ngram
from horde_proxy.worker.backends.base import (
    Backend,
    BackendDown,
    BackendError,
    BackendOptions,
    OpenBackend,
)
from horde_proxy.worker.backends.http_server import is_url
from horde_proxy.worker.backends.kobold import KoboldServer
from horde_proxy.worker.backends.offered_model import matches
from horde_proxy.worker.backends.ollama import OllamaServer
from horde_proxy.worker.backends.openai import SERVERS, OpenAIServer


@dataclass(frozen=True)
class BackendKind:
    """One kind. `choices` are what users write for it, as in "echo" or "the path of a GGUF file".

    `server` is the word for the servers that it finds at a URL, `words` are theirs in the settings.
    `open_all` opens several models of such a server.
    """

    open: OpenBackend
    choices: tuple[str, ...] = ()
    server: str | None = None
    words: tuple[str, ...] = ()
    open_all: Callable[[str, BackendOptions], Sequence[Backend]] | None = None


# The first that recognises the name wins. KoboldCpp comes before the other servers, because it
# also answers like Ollama and OpenAI, and Ollama before OpenAI for the same reason.
KINDS: tuple[BackendKind, ...] = (
    BackendKind(
        KoboldServer.open,
        server=KoboldServer.label,
        words=("koboldai",),
        open_all=KoboldServer.open_all,
    ),
    BackendKind(
        OllamaServer.open,
        server=OllamaServer.label,
        words=("ollama",),
        open_all=OllamaServer.open_all,
    ),
    BackendKind(
        OpenAIServer.open,
        server=OpenAIServer.label,
        words=tuple(SERVERS),
        open_all=OpenAIServer.open_all,
    ),
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


def server_kinds() -> tuple[str, ...]:
    """The words for kinds of servers, as in "llama.cpp"."""
    return tuple(word for kind in KINDS for word in kind.words)


def open_backend(name: str, options: BackendOptions | None = None) -> Backend:
    """The backend of a name, a file's path or a server's URL. Raises BackendError."""
    options = options or BackendOptions()
    for kind in _kinds(options):
        backend = kind.open(name, options)
        if backend is not None:
            return backend
    raise _unknown(name)


def open_backends(name: str, options: BackendOptions) -> Sequence[Backend]:
    """The backends of the models that `options.models` name at a URL; else the one of a name.

    Raises BackendError.
    """
    if not is_url(name):
        backend = open_backend(name, options)
        if any(matches(backend.name, glob) for glob in options.denied_models):
            raise BackendError(f"filters.denied_models leaves no model of {name}: {backend.name}")
        return [backend]
    if not options.models:
        return [open_backend(name, options)]
    for kind in _kinds(options):
        backends = kind.open_all(name, options) if kind.open_all else ()
        if backends:
            return backends
    raise _unknown(name)


def _kinds(options: BackendOptions) -> Sequence[BackendKind]:
    return [kind for kind in KINDS if not options.kind or options.kind in kind.words]


def _unknown(name: str) -> BackendError:
    if is_url(name):
        shown = without_login(name)
        return BackendDown(f"{shown} is not {_any_server()} with a model, or it is not running")
    # Perhaps a URL with a password whose http:// is missing.
    shown = "(hidden)" if "@" in name else repr(name)
    return BackendError(f"unknown backend {shown}: use {backend_choices()}")
