"""Opens a worker's backend for the kind of jobs that it does: texts, images or alchemy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from horde_proxy.commands.console import say
from horde_proxy.commands.worker_settings import WorkerBackendSettings, WorkerFilterSettings
from horde_proxy.config.errors import ConfigError
from horde_proxy.printable import without_login
from horde_proxy.worker.alchemist import Alchemist
from horde_proxy.worker.backends import (
    Backend,
    BackendDown,
    BackendOptions,
    StreamsChat,
    open_backends,
)
from horde_proxy.worker.backends.alchemy import open_alchemy
from horde_proxy.worker.backends.http_server import is_url
from horde_proxy.worker.backends.images import ImageBackend, ImageOptions, open_images
from horde_proxy.worker.dreamer import Dreamer
from horde_proxy.worker.job_rules import JobRules
from horde_proxy.worker.kinds import WorkerKind
from horde_proxy.worker.scribe import Scribe


@dataclass(frozen=True)
class OpenedBackend:
    """A backend that does jobs. `offers` are its models; `own` tells it from the other backends."""

    kind: WorkerKind
    offers: Sequence[str]
    own: str
    is_chatting: bool = False


def opened_backend(
    backend: WorkerBackendSettings, options: BackendOptions, filters: WorkerFilterSettings
) -> OpenedBackend:
    """The backend of the settings. Raises BackendError.

    What a URL leads to is found out: a server of texts, else one of images.
    """
    rules = JobRules(filters.words, filters.patterns)
    jobs = backend.jobs_by_kind()
    if jobs == "alchemy":
        return _transforming(backend, options)
    if jobs == "image" or (jobs is None and not is_url(backend.url)):
        images = open_images(backend.url, _image_options(backend, options))
        if images is not None:
            return _dreaming(backend, images, rules)
    try:
        return _writing(backend, options, rules)
    except BackendDown:
        if jobs is not None or not is_url(backend.url):
            raise
        images = open_images(backend.url, _image_options(backend, options))
        if images is None:
            raise
        return _dreaming(backend, images, rules)


def shown_backend(url: str) -> str:
    """A backend in logs: a server's URL without a login; another name or path unchanged."""
    return without_login(url) if is_url(url) else url


def _writing(
    backend: WorkerBackendSettings, options: BackendOptions, rules: JobRules
) -> OpenedBackend:
    engines = open_backends(backend.url, options)
    offers = [engine.name for engine in engines]
    own = backend.name or offers[0].rpartition("/")[2]
    is_chatting = _are_chatting(backend, engines)
    return OpenedBackend(Scribe(engines, rules=rules), offers, own, is_chatting)


def _dreaming(
    backend: WorkerBackendSettings, images: ImageBackend, rules: JobRules
) -> OpenedBackend:
    own = backend.name or images.models[0].rpartition("/")[2]
    kind = Dreamer(images, rules=rules, batch=backend.batch)
    return OpenedBackend(kind, images.models, own)


def _transforming(backend: WorkerBackendSettings, options: BackendOptions) -> OpenedBackend:
    alchemy = open_alchemy(backend.url, _image_options(backend, options))
    # The same model may also be a backend for texts, which is another worker.
    own = backend.name or f"alchemist-{alchemy.name.rpartition('/')[2]}"
    return OpenedBackend(Alchemist(alchemy, batch=backend.batch), sorted(alchemy.forms), own)


def _image_options(backend: WorkerBackendSettings, options: BackendOptions) -> ImageOptions:
    return ImageOptions(
        kind=backend.kind,
        api_key=backend.api_key,
        models=[options.model] if options.model else options.models,
        denied_models=options.denied_models,
        names=backend.names,
        max_pixels=backend.max_pixels,
        workflow=Path(backend.workflow) if backend.workflow else None,
        censor=backend.censor,
        report=say,
    )


def _are_chatting(backend: WorkerBackendSettings, engines: Sequence[Backend]) -> bool:
    """Whether chats are offered. Raises ConfigError where they cannot be, but are set."""
    if backend.chat and not all(isinstance(engine, StreamsChat) for engine in engines):
        raise ConfigError(
            f"{shown_backend(backend.url)} has no chats: leave chat out, or use a model server"
        )
    return all(isinstance(engine, StreamsChat) and engine.can_chat for engine in engines)
