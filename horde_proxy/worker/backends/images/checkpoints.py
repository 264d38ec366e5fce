"""Which of a server's image models a worker offers, and under which names. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from horde_proxy.worker.backends.base import BackendError
from horde_proxy.worker.backends.images.base import ImageOptions
from horde_proxy.worker.backends.offered_model import matches

_SUFFIXES = (".safetensors", ".ckpt", ".gguf", ".sft")
_MOST_NAMES = 20
"""Names that an error lists."""


@dataclass(frozen=True)
class Checkpoint:
    """A model: the name for hordes, and what the server calls it."""

    name: str
    title: str


def plain_name(file: str) -> str:
    """A file's name without folder and type: "v1-5" of "sd/v1-5.safetensors"."""
    name = PurePath(file.replace("\\", "/")).name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def chosen(
    checkpoints: Sequence[Checkpoint], loaded: Any, options: ImageOptions, url: str
) -> list[Checkpoint]:
    """The models to offer, under the names that the user gives them. Raises BackendError.

    Without `options.models` it is the only one, or the `loaded` one, by its title. `url` is shown.
    """
    offered = []
    for checkpoint in checkpoints:
        names = {checkpoint.name, options.names.get(checkpoint.name, checkpoint.name)}
        if options.models:
            is_wanted = _are_meant(names, options.models)
        else:
            is_wanted = len(checkpoints) == 1 or checkpoint.title == loaded
        if is_wanted and not _are_meant(names, options.denied_models):
            name = options.names.get(checkpoint.name, checkpoint.name)
            offered.append(Checkpoint(name, checkpoint.title))
    if not offered:
        shown = ", ".join(sorted(c.name for c in checkpoints)[:_MOST_NAMES]) or "none"
        raise BackendError(
            f"choose among the image models of {url} with models (--model): it has {shown}"
        )
    return offered


def _are_meant(names: Iterable[str], globs: Iterable[str]) -> bool:
    """Whether a glob matches one of a model's names."""
    return any(matches(name, glob) for name in names for glob in globs)
