"""Short ids of models, without a slash: "Foo-8B" for "koboldcpp/org/Foo-8B". Pure.

Some clients read an id with a slash as provider and model: openai-agents takes "a/b" for the model
b of the provider a, and so does mirascope. Where the last part of an id is not enough to tell two
models apart, more parts come before it: "org--Foo-8B". Hugging Face writes the names of
repositories like this in its cache, and allows no "--" within them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

_GLUE = "--"


def short_ids(ids: Iterable[str], reserved: Collection[str]) -> dict[str, str]:
    """The short id of each id. It refers to this model only, in upper or lower case alike.

    No short id is another model's id, or one of `reserved`, which are in lower case. It depends on
    the set of ids only, not on their order. An id that cannot be shortened stays as it is: "a/b"
    beside a model that is called "a--b".
    """
    endings = {full: _endings(full) for full in ids}
    folded = [[ending.casefold() for ending in own] for own in endings.values()]
    all_endings = Counter(ending for own in folded for ending in own)
    # A whole id is meant before another one that only ends like it: "org--m" is "org/m", also
    # beside "cloud/org/m".
    whole = Counter(own[-1] for own in folded if own)

    def is_free(ending: str, is_whole: bool) -> bool:
        key = ending.casefold()
        return (whole if is_whole else all_endings)[key] == 1 and key not in reserved

    return {
        full: next((ending for ending in own if is_free(ending, ending is own[-1])), full)
        if "/" in full
        else full
        for full, own in endings.items()
    }


def with_short_id(name: str, ids: Iterable[str]) -> list[str]:
    """The ids that a name with "--" stands for: those that it is as a whole, or else an end of.

    "org--foo-8b" stands for "org/Foo-8B", or else for "koboldcpp/org/Foo-8B".
    """
    if _GLUE not in name:
        return []
    key = name.casefold()
    endings = {full: [ending.casefold() for ending in _endings(full)] for full in ids}
    whole = [full for full, own in endings.items() if own[-1:] == [key]]
    return whole or [full for full, own in endings.items() if key in own]


def with_slashes(name: str) -> str:
    """The name with a slash for each "--"."""
    return name.replace(_GLUE, "/")


def _endings(full: str) -> list[str]:
    """All ends of an id, the shortest first: "Foo", "org--Foo", "koboldcpp--org--Foo"."""
    parts = [part for part in full.split("/") if part]
    return [_GLUE.join(parts[start:]) for start in reversed(range(len(parts)))]
