"""The settings file of `horde-proxy worker --config FILE`. It opens no backend and calls nobody.

The file is TOML (or Python with the same names), as the proxy's settings are, and its errors name
the setting, its value and its source in the same way.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from horde_proxy.aihorde.image_limits import (
    LEAST_SIDE,
    MOST_IMAGES,
    MOST_PIXELS_FREE,
    MOST_SIDE,
)
from horde_proxy.aihorde.limits import MOST_TOKENS, TEXT_PARAMETERS
from horde_proxy.config.errors import ConfigError
from horde_proxy.config.file import read_file
from horde_proxy.config.sources import explain
from horde_proxy.config.unknown_names import no_such_setting, tables_of
from horde_proxy.config.values import (
    HttpUrl,
    ProxyUrl,
    Seconds,
    SecondsOrZero,
    Section,
    SentKey,
    is_loopback,
)
from horde_proxy.worker.backends import server_kinds
from horde_proxy.worker.backends.images import image_kinds
from horde_proxy.worker.job_rules import JobRules

LONGEST_NAME = 100
"""The longest name that AI-Horde takes for a worker."""
DEFAULT_DRAIN = 30.0
"""Seconds: a job has 150, most take less than 30, and systemd waits 90."""
MOST_THREADS = 50
"""AI-Horde's bound for a worker's threads."""
_LEAST_PIXELS = LEAST_SIDE * LEAST_SIDE
_OF_IMAGES = ("names", "max_pixels", "workflow", "censor", "batch")
_MOST_CONTEXT = int(TEXT_PARAMETERS["max_context_length"].most or 0)
_LEAST_CONTEXT = int(TEXT_PARAMETERS["max_context_length"].least or 0)
_LEAST_LENGTH = int(TEXT_PARAMETERS["max_length"].least or 0)


def _known_kind(kind: str) -> str:
    kinds = (*server_kinds(), *image_kinds())
    if kind not in kinds:
        raise ValueError(f"use one of {', '.join(kinds)}")
    return kind


def _loopback_address(address: str) -> str:
    """HOST:PORT of this machine. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not is_loopback(host.strip("[]")) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("write it as 127.0.0.1:PORT: the page is for this machine only")
    return address


def _usable_rule(text: str) -> str:
    """A pattern of RE2. Raises ValueError."""
    JobRules(patterns=[text])
    return text


Text = Annotated[str, Field(min_length=1)]


class WorkerHordeSettings(Section):
    """One of [[hordes]]. Jobs are popped from the first that has one."""

    url: HttpUrl
    api_key: SentKey | None = None
    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)] | None = None
    priority_usernames: list[Text] = Field(default_factory=list)
    nsfw: bool = True
    idle: Seconds = 1.0
    proxy_url: ProxyUrl | None = None


class WorkerBackendSettings(Section):
    """One of [[backends]]: a server's URL, "smollm2", "painter" or the like, or a file's path.

    `names`, `max_pixels`, `workflow`, `censor` and `batch` are for images.
    """

    url: Text
    jobs: Literal["text", "image", "alchemy"] | None = None
    kind: Annotated[str, AfterValidator(_known_kind)] | None = None
    api_key: SentKey | None = None
    models: list[Text] = Field(default_factory=list)
    max_length: Annotated[int, Field(ge=_LEAST_LENGTH, le=MOST_TOKENS)] | None = None
    max_context_length: Annotated[int, Field(ge=_LEAST_CONTEXT, le=_MOST_CONTEXT)] | None = None
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] | None = None
    chat: bool | None = None
    names: dict[Text, Text] = Field(default_factory=dict)
    max_pixels: Annotated[int, Field(ge=_LEAST_PIXELS, le=MOST_SIDE * MOST_SIDE)] = MOST_PIXELS_FREE
    workflow: Text | None = None
    censor: bool = False
    batch: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = 1
    name: Annotated[str, Field(min_length=1, max_length=40)] | None = None

    def jobs_by_kind(self) -> str | None:
        """The jobs that the backend does, as its kind says; None where both are possible."""
        if self.jobs or self.kind is None:
            return self.jobs
        return "image" if self.kind in image_kinds() else "text"

    @model_validator(mode="after")
    def _has_settings_of_its_jobs(self) -> WorkerBackendSettings:
        kinds = image_kinds() if self.jobs == "text" else server_kinds()
        if self.jobs in ("text", "image") and self.kind in kinds:
            raise ValueError(f"the kind {self.kind} does no jobs of {self.jobs}")
        given = self.model_fields_set & set(_OF_IMAGES)
        if given and self.jobs_by_kind() == "text":
            raise ValueError(f"{sorted(given)[0]} is for a backend of images: leave it out")
        return self


class WorkerIdleSettings(Section):
    """[idle]: when the worker gives way."""

    max_load: Annotated[float, Field(gt=0)] | None = None
    others: bool = False
    abort: bool = False
    resume_after: SecondsOrZero = 5.0


class WorkerFilterSettings(Section):
    """[filters]: jobs that are given back, and models that are never offered."""

    words: list[Text] = Field(default_factory=list)
    patterns: list[Annotated[str, AfterValidator(_usable_rule)]] = Field(default_factory=list)
    denied_models: list[Text] = Field(default_factory=list)


class WorkerProcessSettings(Section):
    """[worker]: the process. `drain` is in seconds, `status` is HOST:PORT of this machine."""

    drain: SecondsOrZero = DEFAULT_DRAIN
    status: Annotated[str, AfterValidator(_loopback_address)] | None = None


class WorkerSettings(Section):
    """All settings of a worker."""

    hordes: Annotated[list[WorkerHordeSettings], Field(min_length=1)]
    backends: Annotated[list[WorkerBackendSettings], Field(min_length=1)]
    idle: WorkerIdleSettings = WorkerIdleSettings()
    filters: WorkerFilterSettings = WorkerFilterSettings()
    worker: WorkerProcessSettings = WorkerProcessSettings()

    @field_validator("hordes")
    @classmethod
    def _distinct(cls, hordes: list[WorkerHordeSettings]) -> list[WorkerHordeSettings]:
        urls = [horde.url for horde in hordes]
        if len(set(urls)) < len(urls):
            raise ValueError("two hordes have the same url: leave one out")
        return hordes

    @field_validator("backends")
    @classmethod
    def _differently_named(
        cls, backends: list[WorkerBackendSettings]
    ) -> list[WorkerBackendSettings]:
        # A horde takes the second worker of a name for the first one.
        names = [backend.name for backend in backends if backend.name]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two backends have the name {name!r}: give each its own")
        return backends

    @model_validator(mode="after")
    def _has_limits_to_abort_for(self) -> WorkerSettings:
        if self.idle.abort and self.idle.max_load is None and not self.idle.others:
            raise ValueError("idle.abort does nothing without idle.max_load or idle.others")
        return self


def read_worker_file(path: str, api_key: str | None = None) -> WorkerSettings:
    """The settings of a file. Raises ConfigError.

    `api_key` (AI_HORDE_API_KEY) is for the horde without a key, of which there may be one: a key
    must not reach another horde than its own.
    """
    file, names = read_file(path)
    if file.is_python:
        names = {name: names[name] for name in WorkerSettings.model_fields if name in names}
    try:
        settings = WorkerSettings.model_validate(names)
    except ValidationError as exc:
        raise ConfigError(explain(exc, [(path, names)], _may_be_shown, _no_such)) from None
    return _with_keys(settings, path, api_key)


def _with_keys(settings: WorkerSettings, path: str, api_key: str | None) -> WorkerSettings:
    keyless = [number for number, horde in enumerate(settings.hordes) if not horde.api_key]
    if not keyless:
        return settings
    if len(keyless) > 1 or not api_key:
        raise ConfigError(
            f"setting hordes.{keyless[-1]}.api_key is missing in {path}: write the key there"
            + ("" if len(keyless) > 1 else ", or set AI_HORDE_API_KEY")
        )
    hordes = list(settings.hordes)
    hordes[keyless[0]] = hordes[keyless[0]].model_copy(update={"api_key": api_key})
    return settings.model_copy(update={"hordes": hordes})


def _may_be_shown(where: list[str], kind: str) -> bool:
    """Whether a value cannot hold a key: a single value of a known setting that is none.

    Where a setting is missing, the value is the whole table that should have it.
    """
    is_leaf = len(where) > 1 and where[:-1] not in (["hordes"], ["backends"])
    is_known = kind not in ("extra_forbidden", "missing")
    return is_leaf and is_known and not where[-1].endswith("key")


def _no_such(where: list[str]) -> str:
    """The reason for a setting that does not exist, with the nearest one that does."""
    section: Any = WorkerSettings
    for name in where[:-1]:
        if not name.isdigit():
            annotation = section.model_fields[name].annotation
            # list[WorkerHordeSettings] and its like, or a section itself.
            section = next(iter(get_args(annotation)), annotation)
    homes = tables_of(WorkerSettings) if len(where) > 1 else {}
    return no_such_setting(where[-1], section.model_fields, homes)
