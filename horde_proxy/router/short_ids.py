"""Short ids of models, without a slash: "Foo-8B" for "koboldcpp/org/Foo-8B". Pure.

Some clients read an id with a slash as provider and model: openai-agents takes "a/b" for the model
b of the provider a, and so does mirascope. Where the last part of an id is not enough to tell two
models apart, more parts come before it: "org--Foo-8B". Hugging Face writes the names of
repositories like this in its cache, and allows no "--" within them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from horde_proxy.aihorde.names import untagged

_GLUE = "--"


def short_ids(ids: Iterable[str], reserved: Collection[str]) -> dict[str, str]:
    """The short id of each id with a slash, for this model only, in upper or lower case alike.

    No short id is another model's id, or one of the `reserved` names. It depends on the set of ids
    only, not on their order. An id that cannot be shortened stays as it is: "a/b" beside a model
    that is called "a--b".
    """
    endings = {full: _endings(full) for full in ids}
    taken = {_key(name) for name in reserved}
    models: defaultdict[str, set[str]] = defaultdict(set)
    whole: defaultdict[str, set[str]] = defaultdict(set)
    for full, own in endings.items():
        for ending in own:
            models[_key(ending)].add(untagged(full))
        for ending in own[-1:]:
            whole[_key(ending)].add(untagged(full))

    def is_free(ending: str, own: Sequence[str]) -> bool:
        # A whole id is meant before another one that only ends like it: "org--m" is "org/m", also
        # beside "cloud/org/m".
        meant = whole if ending is own[-1] else models
        return len(meant[_key(ending)]) == 1 and _key(ending) not in taken

    return {
        full: next((ending for ending in own if is_free(ending, own)), full)
        for full, own in endings.items()
        if "/" in full
    }


def with_short_id(name: str, ids: Iterable[str]) -> list[str]:
    """The ids that a name with "--" stands for: those that it is as a whole, or else an end of.

    "org--foo-8b" stands for "org/Foo-8B", or else for "koboldcpp/org/Foo-8B".
    """
    if _GLUE not in name:
        return []
    key = _key(name)
    endings = {full: [_key(ending) for ending in _endings(full)] for full in ids}
    whole = [full for full, own in endings.items() if own[-1:] == [key]]
    return whole or [full for full, own in endings.items() if key in own]


def with_slashes(name: str) -> str:
    """The name with a slash for each "--"."""
    return name.replace(_GLUE, "/")


def _endings(full: str) -> list[str]:
    """All ends of an id, the shortest first: "Foo", "org--Foo", "koboldcpp--org--Foo"."""
    parts = [part for part in full.split("/") if part]
    return [_GLUE.join(parts[start:]) for start in reversed(range(len(parts)))]


def _key(name: str) -> str:
    """What is equal in two names of one model: "m" and "M:latest" are one."""
    return untagged(name).casefold()
