"""Which of a server's models a worker offers, and how long prompts and answers may be. Pure.

What the user sets goes first, then what the server says it serves, then careful defaults. A model
that cannot write text is never offered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from horde_proxy.aihorde.limits import MOST_TOKENS, TEXT_PARAMETERS
from horde_proxy.protocol.models import ModelFacts
from horde_proxy.worker.backends.base import BackendError, BackendOptions

DEFAULT_LENGTH = 512
"""Tokens of an answer where the server sets no limit: what AI-Horde assumes of a worker. A longer
one may take a slow server more than the 150 s that a job has."""
DEFAULT_CONTEXT = 4096
"""Tokens of a prompt and its answer where the server does not say what it serves. Ollama's own
default; what a model was trained for may need more memory than there is."""
_MOST_CONTEXT = int(TEXT_PARAMETERS["max_context_length"].most or 0)
_LEAST_LENGTH = int(TEXT_PARAMETERS["max_length"].least or 0)
_CONTEXT, _LENGTH = "--max-context-length", "--max-length"
_LATEST = ":latest"
_MOST_NAMES = 20
"""Names that an error lists."""


@dataclass(frozen=True)
class ServerModel:
    """One model of a server, by the server's own name. `server` is its kind in `native_apis`."""

    name: str
    facts: ModelFacts
    server: str = ""


@dataclass(frozen=True)
class ModelLimits:
    """Tokens of an answer and of the whole context, each with where it comes from."""

    length: int
    context: int
    length_origin: str
    context_origin: str

    def description(self) -> str:
        """A line for the user."""
        return (
            f"context {self.context} ({self.context_origin}), "
            f"max length {self.length} ({self.length_origin})"
        )


def choose(models: Sequence[ServerModel], wanted: str | None, url: str) -> tuple[ServerModel, str]:
    """(the model to offer, why it). Raises BackendError, which lists the models to choose from.

    `wanted` is one of the models' names, or another name for the only possible one. `url` is shown.
    """
    named = _named(models, wanted) if wanted else None
    if named:
        if not named.facts.writes_text:
            output = " and ".join(named.facts.outputs)
            raise BackendError(f"{named.name} at {url} cannot write text: it is for {output}")
        return named, "--model"
    usable = [model for model in models if model.facts.writes_text]
    if not usable:
        raise BackendError(f"the server at {url} has no model that writes text: {_names(models)}")
    if len(usable) == 1:
        return usable[0], "its only one" if len(models) == 1 else "its only one that writes text"
    loaded = [model for model in usable if model.facts.is_loaded]
    if len(loaded) == 1:
        return loaded[0], "the one that is loaded"
    if wanted:
        raise BackendError(f"the server at {url} has no model {wanted}: it has {_names(usable)}")
    raise BackendError(
        f"the server at {url} has several models; add --model with one of these: "
        f"{_names(loaded or usable)}"
    )


def choose_all(models: Sequence[ServerModel], wanted: Sequence[str], url: str) -> list[ServerModel]:
    """The models of globs that write text, in the server's order.

    Raises BackendError for a glob that matches none, and where nothing is left. `url` is shown.
    """
    chosen = []
    for glob in wanted:
        named = [model for model in models if matches(model.name, glob)]
        if not named:
            raise BackendError(f"the server at {url} has no model {glob}: it has {_names(models)}")
        chosen += named
    usable = [model for model in models if model in chosen and model.facts.writes_text]
    if not usable:
        raise BackendError(f"the server at {url} has no model that writes text: {_names(chosen)}")
    return usable


def allowed(
    models: Sequence[ServerModel], denied: Sequence[str], url: str
) -> Sequence[ServerModel]:
    """The models that no glob of `denied` matches. Raises BackendError if that leaves none."""
    left = [model for model in models if not any(matches(model.name, glob) for glob in denied)]
    if models and not left:
        raise BackendError(f"filters.denied_models leaves no model of {url}: {_names(models)}")
    return left


def matches(name: str, glob: str) -> bool:
    """Whether a model's name matches a glob, without case, and with or without ":latest"."""
    return fnmatchcase(_plain(name), _plain(glob)) or fnmatchcase(name.casefold(), glob.casefold())


def limits_of(facts: ModelFacts, options: BackendOptions) -> ModelLimits:
    """The lengths to advertise. Those that the user sets are kept, whatever the server says."""
    context, context_origin = _context(facts, options.max_context_length)
    length, length_origin = _length(facts, options.max_length, context)
    return ModelLimits(length, context, length_origin, context_origin)


def _context(facts: ModelFacts, wanted: int | None) -> tuple[int, str]:
    told = facts.context
    if wanted:
        is_more = told is not None and wanted > told
        return wanted, f"{_CONTEXT}; the server tells {told}" if is_more else _CONTEXT
    if told:
        return _within(told, _MOST_CONTEXT)
    if facts.trained_context:
        # What is served may be less: Ollama cuts a longer prompt without a word.
        return min(facts.trained_context, DEFAULT_CONTEXT), (
            "the server does not tell what it serves, only that the model was trained for "
            f"{facts.trained_context}; {_CONTEXT} changes it"
        )
    return DEFAULT_CONTEXT, f"the server tells none; {_CONTEXT} changes it"


def _length(facts: ModelFacts, wanted: int | None, context: int) -> tuple[int, str]:
    if wanted:
        return wanted, _LENGTH
    # An answer that fills the context leaves no room for a prompt.
    most = max(min(MOST_TOKENS, context // 2), _LEAST_LENGTH)
    if facts.max_output:
        return _within(max(facts.max_output, _LEAST_LENGTH), most)
    return min(DEFAULT_LENGTH, most), f"the server tells none; {_LENGTH} changes it"


def _within(told: int, most: int) -> tuple[int, str]:
    """What a server tells, lowered to the most that can be advertised."""
    if told > most:
        return most, f"the server tells {told}, which is more than can be offered"
    return told, "told by the server"


def _named(models: Iterable[ServerModel], wanted: str) -> ServerModel | None:
    """The model that a name means: exactly, or without case and ":latest", or after a prefix.

    "home/llama3.2:1b" means "llama3.2:1b", which is then advertised under the longer name.
    """
    plain = _plain(wanted)
    by_name = {model.name: model for model in models}
    by_plain = {_plain(model.name): model for model in models}
    # The longest wins: of "b" and "a/b", "home/a/b" means the latter.
    suffixes = sorted((name for name in by_plain if plain.endswith(f"/{name}")), key=len)
    suffix = suffixes[-1] if suffixes else ""
    return by_name.get(wanted) or by_plain.get(plain) or by_plain.get(suffix)


def _plain(name: str) -> str:
    return name.casefold().removesuffix(_LATEST)


def _names(models: Sequence[ServerModel]) -> str:
    names = sorted(model.name for model in models)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
