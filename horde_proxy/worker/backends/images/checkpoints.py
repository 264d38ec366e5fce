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

    Without `options.models` it is the only one, or the `loaded` one, by its title. A name that no
    model has is another name for that one. `url` is shown.
    """
    allowed = [c for c in checkpoints if not _are_meant(_names(c, options), options.denied_models)]
    offered = [c for c in allowed if _are_meant(_names(c, options), options.models)]
    usual = [c for c in allowed if len(allowed) == 1 or _is_same(c.title, loaded)]
    [wanted, *more] = options.models or [""]
    if not options.models:
        offered = usual
    elif not offered and not more and len(usual) == 1 and not set(wanted) & set("*?["):
        return [Checkpoint(wanted, usual[0].title)]
    if not offered:
        shown = ", ".join(sorted(c.name for c in checkpoints)[:_MOST_NAMES]) or "none"
        raise BackendError(
            f"choose among the image models of {url} with models (--model): it has {shown}"
        )
    return [Checkpoint(options.names.get(c.name, c.name), c.title) for c in offered]


def _names(checkpoint: Checkpoint, options: ImageOptions) -> set[str]:
    """The names that may mean a model: its own, and the one that the user gave it."""
    return {checkpoint.name, options.names.get(checkpoint.name, checkpoint.name)}


def _is_same(title: str, loaded: Any) -> bool:
    """Whether a title is that of the loaded model: "a.safetensors [879db523c3]" or without hash."""
    return isinstance(loaded, str) and title.partition(" [")[0] == loaded.partition(" [")[0]


def _are_meant(names: Iterable[str], globs: Iterable[str]) -> bool:
    """Whether a glob matches one of a model's names."""
    return any(matches(name, glob) for name in names for glob in globs)
