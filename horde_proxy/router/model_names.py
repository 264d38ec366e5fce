"""Resolves a client's name for a model to the ids of models, the quickest first. Pure.

A name may be an alias, an id, a short id, an id without engine, author and quantisation, a glob, a
~regex, a list with commas, or one of `auto`, `fast`, `large` and `long`. The router decides
which upstream serves an id.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import re2

from horde_proxy.aihorde.names import matches_glob, normalised, size_of, untagged
from horde_proxy.errors import InvalidRequest
from horde_proxy.numbers import finite
from horde_proxy.protocol.models import is_available, writes_text
from horde_proxy.router.short_ids import with_short_id, with_slashes

Model = Mapping[str, Any]

# In characters. A client may send megabytes as a name, and every rule compares it with all models.
_LONGEST_NAME = 1000
_LONGEST_LIST = 20
"""Names of a list that count."""

_LONGEST_REGEX = 200
"""Characters."""
_REGEX_MEMORY = 1 << 20
"""Bytes that RE2 may take for one regular expression; by default it takes 8 MB."""

_USUAL_TOKENS = 200
"""Tokens of an answer, for an estimate of its time."""
_UNKNOWN_SPEED = 5.0
"""The assumed tokens a second of a model without a measured speed."""
_NO_QUEUE = 5.0
"""The assumed seconds for an answer of a model that is not from a horde."""

# `auto` prefers models that can hold a system prompt and a few turns.
_ENOUGH_CONTEXT = 4096
"""Tokens."""
_START = 10.0
"""Seconds that `auto` adds to each wait, so that a quick tiny model does not always win."""

# The text up to the next bracket of a glob or a ~regex, and that bracket: "ab,c" and "]".
_UP_TO_BRACKET = re.compile(r"([^()\[\]{}]*)([()\[\]{}]?)")


def resolve(name: str, models: Sequence[Model], aliases: Mapping[str, str]) -> list[list[str]]:
    """The ids of the models that a name refers to, in groups; [] if it matches none.

    The groups are in order of preference. The models of a group are equally good, and the quickest
    comes first. A pattern makes one group; a list makes a group of each element, `auto` of each
    model. Only the first 20 names of a list count. Raises InvalidRequest for a ~regex that is
    invalid or could take very long.
    """
    folded = {alias.casefold(): target for alias, target in aliases.items()}
    # A later group leaves out what an earlier one has: a model that failed is not tried again.
    seen: set[str] = set()
    groups = []
    for group in _groups(name, sorted(models, key=_time), folded):
        fresh = [model_id for model_id in dict.fromkeys(group) if model_id not in seen]
        seen.update(fresh)
        groups += [fresh] if fresh else []
    return groups


def expected_seconds(model: Model) -> float:
    """Seconds until a usual generation is done: the estimate of the model, or by eta and speed."""
    horde = model.get("horde")
    if not isinstance(horde, Mapping):
        return _NO_QUEUE
    expected = finite(horde.get("expected_seconds"))
    if expected is not None:
        return expected
    speed = finite(horde.get("tokens_per_second")) or _UNKNOWN_SPEED
    return (finite(horde.get("eta")) or 0.0) + _USUAL_TOKENS / speed


def alias_chain(name: str, aliases: Mapping[str, str]) -> list[str]:
    """The name, what it is an alias of, and so on. The aliases' names are in lower case.

    Each alias is followed once; a cycle ends with "".
    """
    chain, left = [name], dict(aliases)
    while (alias := _alias_in(chain[-1], left)) is not None:
        chain.append(left[alias])
        left[alias] = ""
    return chain


def aliases_in(name: str, aliases: Mapping[str, str]) -> list[str]:
    """All aliases that a name goes through, also in the elements of lists; each once."""
    pending, passed = [name], dict[str, None]()
    while pending:
        current = pending.pop().strip()
        alias = _alias_in(current, aliases)
        if alias is None:
            elements = _elements(current) if len(current) <= _LONGEST_NAME else []
            pending += elements if len(elements) > 1 else []
        elif alias not in passed:
            passed[alias] = None
            pending.append(aliases[alias])
    return list(passed)


def _alias_in(name: str, aliases: Mapping[str, str]) -> str | None:
    """The alias of this name, with or without ":latest"; None without one.

    An alias that was followed has the target "". It still hides models of exactly its name, but
    {"x": "x:latest"} leads to the model.
    """
    folded = name.casefold()
    if not name or folded in aliases:
        return folded if name else None
    plain = untagged(folded)
    other = plain if plain != folded else f"{folded}:latest"
    return other if aliases.get(other) else None


def _groups(name: str, models: Sequence[Model], aliases: Mapping[str, str]) -> list[list[str]]:
    """Groups of ids, by the first rule that matches. An alias is followed once, so cycles end."""
    if not name:
        return []
    alias = _alias_in(name, aliases)
    if alias is not None:
        return _groups(aliases[alias], models, {**aliases, alias: ""})
    # An exact id wins over all that it looks like, e.g. "a,b" over a list. Of "x" and "x:latest",
    # which are one model, the one that the client wrote goes first.
    plain = untagged(name)
    exact = _matching(models, lambda model_id: untagged(model_id) == plain)
    if exact:
        return [sorted(exact, key=lambda model_id: model_id != name)]
    if len(name) > _LONGEST_NAME:
        return []
    # A model that cannot be used needs its exact name, or a name that no other model matches.
    usable = [model for model in models if is_available(model)]
    return _alike(name, usable, aliases) or (
        _alike(name, models, aliases) if len(usable) < len(models) else []
    )


def _alike(name: str, models: Sequence[Model], aliases: Mapping[str, str]) -> list[list[str]]:
    """Groups of the ids that look like the name, by the first rule that matches."""
    folded = untagged(name).casefold()
    alike = (
        _matching(models, lambda model_id: untagged(model_id).casefold() == folded)
        or with_short_id(name, (model["id"] for model in models))
        or _by_normalised(name, models)
        # A short id of a worker that left: another one may have the same model.
        or _by_normalised(with_slashes(name), models)
        or _by_glob(name, models)
        or _by_regex(name, models)
    )
    return (
        ([alike] if alike else [])
        or _by_list(name, models, aliases)
        or _by_word(name.casefold(), models)
    )


def _matching(models: Iterable[Model], matches: Callable[[str], bool]) -> list[str]:
    return [model["id"] for model in models if matches(model["id"])]


def _by_normalised(name: str, models: Sequence[Model]) -> list[str]:
    # In a pattern or a list, the text before the last slash is not an engine or author.
    if name.startswith("~") or any(sign in name for sign in "*?[,"):
        return []
    key = normalised(name)
    return _matching(models, lambda model_id: key != "" and normalised(model_id) == key)


def _by_glob(glob: str, models: Sequence[Model]) -> list[str]:
    if not any(sign in glob for sign in "*?["):
        return []

    def matches(model_id: str) -> bool:
        # "l3-8b-*" shall find "koboldcpp/L3-8B-Stheno-v3.2" as well.
        return matches_glob(model_id, glob) or matches_glob(model_id.rpartition("/")[2], glob)

    return _matching(models, matches)


def _by_regex(name: str, models: Sequence[Model]) -> list[str]:
    if not name.startswith("~"):
        return []
    # A search, not a match of the whole: "~stheno|behemoth" finds both anywhere in an id.
    search = _compiled(name[1:]).search
    return _matching(models, lambda model_id: search(model_id) is not None)


def _compiled(pattern: str) -> Any:
    """RE2 takes time in proportion to the name's length, whatever the pattern is.

    It has no back-references and no look-around, which Python's `re` would try for ever.
    """
    if len(pattern) > _LONGEST_REGEX:
        raise _invalid(f"it has more than {_LONGEST_REGEX} characters")
    options = re2.Options()
    options.case_sensitive, options.log_errors, options.max_mem = False, False, _REGEX_MEMORY
    try:
        return re2.compile(pattern, options)
    except re2.error as exc:
        # Its words are bytes: b"missing ): (a"
        raise _invalid(exc.args[0].decode("utf-8", "replace")) from exc
    except UnicodeEncodeError as exc:
        raise _invalid("it has half of a character") from exc


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"The regular expression after `~` in `model` is not usable: {reason}.",
        param="model",
        code="invalid_value",
    )


def _by_list(name: str, models: Sequence[Model], aliases: Mapping[str, str]) -> list[list[str]]:
    names = _elements(name)
    if len(names) == 1:
        return []
    return [
        group
        for element in names[:_LONGEST_LIST]
        for group in _groups(element.strip(), models, aliases)
    ]


def _elements(name: str) -> list[str]:
    """The elements of a list; "a,b" has two, and "[ab,c]*,~(a{1,2})" too.

    A comma before a closing bracket is within brackets. It takes time in proportion to the length:
    thousands of commas are a client's name for a model, too.
    """
    elements = [""]
    for text, bracket in _UP_TO_BRACKET.findall(name):
        is_within = bracket != "" and bracket in ")]}"
        first, *further = [text] if is_within else text.split(",")
        elements[-1] += first
        elements += further
        elements[-1] += bracket
    return elements


def _by_word(word: str, models: Sequence[Model]) -> list[list[str]]:
    if word not in WORDS:
        return []
    # The words are for chats: a model that only embeds has a long context and no queue.
    talking = [model for model in models if writes_text(model)]
    return [[model["id"]] for model in sorted(talking, key=WORDS[word])]


def _time(model: Model) -> tuple[float, str]:
    return expected_seconds(model), model["id"]


def _largest(model: Model) -> float:
    return -(size_of(model["id"]) or 0.0)


def _context(model: Model) -> float:
    return finite(model.get("context_length")) or 0.0


def _longest_context(model: Model) -> float:
    return -_context(model)


def _balance(model: Model) -> tuple[bool, float]:
    """The sort key of `auto`: enough context first, then the wait divided by the model's ability.

    Ability is assumed to grow with the square root of the size. Sizes are limited, so that size
    alone does not decide about very large and very small models.
    """
    size = min(max(size_of(model["id"]) or 1.0, 1.0), 150.0)  # billions of parameters
    score = (expected_seconds(model) + _START) / math.sqrt(size)
    return _context(model) < _ENOUGH_CONTEXT, score


# Sort keys, the best model first. Sorting is stable and the models come quickest first, so that
# the quickest of equal ones wins.
WORDS: dict[str, Callable[[Model], Any]] = {
    "auto": _balance,
    "fast": _time,
    "large": _largest,
    "long": _longest_context,
}
