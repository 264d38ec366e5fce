"""One canonical form for the names that workers, statistics and the reference use; pure.

Engine, author, user and quantisation are no part of a model; its size and its version are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from horde_proxy.naming import author_and_model, normalised, size_of

CANONICAL = "canonical"
"""The backend of a name that tells no engine."""

ENGINES = frozenset(
    {
        "aphrodite",
        "exllama",
        "horde-proxy",
        "koboldcpp",
        "llama.cpp",
        "llamacpp",
        "mlx",
        "ollama",
        "sglang",
        "tabbyapi",
        "vllm",
    }
)

_GAPS = re.compile(r"[\s_-]+")
_LEADING_VERSION = re.compile(r"^[0-9]+(?:\.[0-9]+)+-(?=.)")
_DATE = re.compile(r"(?<=-)(?:(?:0[1-9]|1[0-2])-20[0-9]{2}|20[0-9]{2}-(?:0[1-9]|1[0-2]))(?=-|$)")
_NO_PART_OF_A_FAMILY = re.compile(
    r"""(?:
        (?:[0-9]+x)?[ae]?[0-9]+(?:\.[0-9]+)?[bmk][0-9]*
        | v[0-9]+(?:\.[0-9]+)*[a-z]?
        | instruct | it | chat | code | base | uncensored | finetune | ft | thinking | reasoning
        | turbo | preview | latest
        | [0-9]{4}
    )""",
    re.IGNORECASE | re.VERBOSE,
)


class Canonical(NamedTuple):
    """The parts of a name. `key` is for comparing; "" is an author that is not told.

    `backend` is the engine in lower case, or "canonical"; `bare` is what follows the last slash,
    without user, in its own writing: a client may ask for it.
    """

    key: str
    backend: str
    author: str
    bare: str


def canonical(name: str) -> Canonical:
    """The parts of an advertised name, "engine/author/Model-Q4_K_M::user#1".

    The first of three or more parts is an engine even when it is not a known one.
    """
    head, _, user = name.partition("::")
    *before, bare = (head if "#" in user else name).split("/")
    backend = CANONICAL
    if before and (before[0].casefold() in ENGINES or len(before) > 1):
        backend = before.pop(0).casefold() or CANONICAL
    author = "/".join(before)
    written, model = author_and_model(bare)
    key = normalised(model)
    if not key:
        return Canonical(name.casefold(), backend, author, name)
    return Canonical(key, backend, author or written, bare)


def distinct(names: Iterable[str]) -> list[str]:
    """One name for each model, the shortest bare one given; in order of first appearance."""
    found: dict[str, str] = {}
    for name in names:
        parts = canonical(name)
        best = found.setdefault(parts.key, parts.bare)
        if len(parts.bare) < len(best):
            found[parts.key] = parts.bare
    return list(found.values())


def family(name: str) -> str:
    """The name without size, version, quantisation, variant word and date, "-" in each gap.

    Compare with casefold. "L3-8B-Stheno-v3.2-Q4_K_M" is of the family "L3-Stheno".
    """
    parts = canonical(name)
    plain = _GAPS.sub("-", author_and_model(parts.bare)[1]).strip("-.:")
    cut = plain[: len(parts.key)]
    unquantised = cut if cut.casefold() == parts.key else parts.key
    undated = _DATE.sub("", _LEADING_VERSION.sub("", unquantised))
    words = [word for word in undated.split("-") if not _NO_PART_OF_A_FAMILY.fullmatch(word)]
    return "-".join(word for word in words if word) or unquantised


def parameters_of(name: str) -> int | None:
    """The number of parameters, as the name tells: 8000000000 for "8B"."""
    billions = size_of(canonical(name).bare)
    return round(billions * 1e9) if billions else None
