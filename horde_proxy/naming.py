"""From the name that a client gives to the ids of the models that it stands for; pure.

A name may be an alias, an id, an id without its trimmings, a glob, a ~regex, a list with commas,
or one of `auto`, `fast`, `large` and `long`. Which upstream serves an id is the router's matter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from horde_proxy.errors import InvalidRequest

Model = Mapping[str, Any]

_LONGEST_NAME = 1000
_LONGEST_REGEX = 200
_LONGEST_LIST = 20
_MOST_CHOICES = 12
_USUAL_TOKENS = 200
_UNKNOWN_SPEED = 5.0
_NO_QUEUE = 5.0
_ENOUGH_CONTEXT = 4096
_START = 10.0

_SIZE = re.compile(
    r"(?<![a-z0-9.])(?:([0-9]+)x)?([0-9]+(?:\.[0-9]+)?)([bm])(?![a-z0-9])", re.IGNORECASE
)
_QUANTISED = re.compile(
    r"""(?:[-.:]+(?:
        gguf | ggml | gptq | awq | exl[23] | mlx | bnb | ud | i1 | imat(?:rix)?
        | i?q[1-8](?:-[01k](?:-[0-9])*)?(?:-(?:xxs|xs|s|m|l|xl|nl))? | tq[12]-0
        | b?f(?:p)?(?:4|8|16|32) | (?:mx|nv)fp4 | nf4 | int[48] | w[48]a(?:4|8|16)
        | [2-8]-?bit(?:-[0-9]+g)?
        | (?:h[0-9]-)?[0-9]+(?:\.[0-9]+)?bpw(?:-h[0-9])?
    ))+$""",
    re.VERBOSE,
)
# Quantisers write "author_Model" where a name may have no slash. No rule tells an author from the
# first word of a name ("Angelic_Eclipse"), so these are the authors that are often met.
_AUTHOR_BEFORE_MODEL = re.compile(
    r"^(?:anthracite-org|arcee-ai|cohereforai|deepseek-ai|google|huggingfacetb|ibm-granite"
    r"|latitudegames|meta-llama|microsoft|mistralai|moonshotai|nousresearch|nvidia|open-?ai"
    r"|readyart|sao10k|thedrummer|tiiuae|zai-org|qwen(?=_qw))_(?=[a-z])",
    re.IGNORECASE,
)
_GAPS = re.compile(r"[\s_-]+")
_COMMA_OUTSIDE_BRACKETS = re.compile(r",(?![^()\[\]{}]*[)\]}])")
_REPEATED_GROUP = re.compile(r"\)\s*[*+{]|\n")


def resolve(name: str, models: Sequence[Model], aliases: Mapping[str, str]) -> list[list[str]]:
    """Ids of the models that a name stands for; [] when there are none.

    The groups are in order of preference; any of one group is as good as another, quickest first:
    a pattern makes one group, each element of a list and each choice of `auto` one of its own.
    Raises InvalidRequest for a ~regex that is broken or could run for very long. Of a list, the
    first 20 names count.
    """
    folded = {alias.casefold(): target for alias, target in aliases.items()}
    seen: set[str] = set()
    groups = []
    for group in _find(name, sorted(models, key=_time), folded):
        fresh = [each for each in dict.fromkeys(group) if each not in seen]
        seen.update(fresh)
        groups += [fresh] if fresh else []
    return groups


def expected_seconds(model: Model) -> float:
    """The time until a usual generation is there: as told, or else from eta and speed."""
    horde = model.get("horde")
    if not isinstance(horde, Mapping):
        return _NO_QUEUE
    speed = _number(horde, "tokens_per_second") or _UNKNOWN_SPEED
    estimate = _number(horde, "eta") + _USUAL_TOKENS / speed
    return _number(horde, "expected_seconds", estimate)


def size_of(name: str) -> float | None:
    """Billions of parameters, as the name tells: the first in B, else the first in M."""
    found = _SIZE.findall(_without_author(name))
    for unit, billions in (("b", 1.0), ("m", 1e-3)):
        for experts, number, letter in found:
            if letter.lower() == unit:
                return float(experts or 1) * float(number) * billions
    return None


@lru_cache(maxsize=4096)
def normalised(name: str) -> str:
    """The name without engine, author, user and quantisation; lower case, "-" in each gap."""
    plain = _GAPS.sub("-", _without_author(name).casefold()).strip("-.:")
    return _QUANTISED.sub("", plain)


def author_and_model(bare: str) -> tuple[str, str]:
    """The author in a name without slashes, "" where it tells none, and the rest."""
    written = _AUTHOR_BEFORE_MODEL.match(bare)
    return (written[0][:-1], bare[written.end() :]) if written else ("", bare)


def _without_author(name: str) -> str:
    head, _, user = name.partition("::")
    return author_and_model((head if "#" in user else name).rpartition("/")[2])[1]


def _number(values: Mapping[str, Any], key: str, default: float = 0.0) -> float:
    value = values.get(key)
    if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
        return float(value)
    return default


def _find(name: str, models: Sequence[Model], aliases: Mapping[str, str]) -> list[list[str]]:
    """Groups of ids, by the first rule that has any. An alias in use stands for nothing."""
    if not name:
        return []
    folded = name.casefold()
    if folded in aliases:
        return _find(aliases[folded], models, {**aliases, folded: ""})
    if any(model["id"] == name for model in models):
        return [[name]]
    if len(name) > _LONGEST_NAME:
        return []
    alike = (
        _matching(models, lambda model_id: model_id.casefold() == folded)
        or _by_normalised(name, models)
        or _by_glob(folded, models)
        or _by_regex(name, models)
    )
    return ([alike] if alike else []) or _by_list(name, models, aliases) or _by_word(folded, models)


def _matching(models: Iterable[Model], matches: Callable[[str], bool]) -> list[str]:
    return [model["id"] for model in models if matches(model["id"])]


def _by_normalised(name: str, models: Sequence[Model]) -> list[str]:
    # What stands before the last slash of a pattern or a list is no engine or author.
    if name.startswith("~") or any(sign in name for sign in "*?[,"):
        return []
    wanted = normalised(name)
    return _matching(models, lambda model_id: wanted != "" and normalised(model_id) == wanted)


def _by_glob(glob: str, models: Sequence[Model]) -> list[str]:
    if not any(sign in glob for sign in "*?["):
        return []

    def matches(model_id: str) -> bool:
        full = model_id.casefold()
        return fnmatchcase(full, glob) or fnmatchcase(full.rpartition("/")[2], glob)

    return _matching(models, matches)


def _by_regex(name: str, models: Sequence[Model]) -> list[str]:
    if not name.startswith("~"):
        return []
    search = _compiled(name[1:]).search
    return _matching(models, lambda model_id: search(model_id) is not None)


def _compiled(pattern: str) -> re.Pattern[str]:
    if len(pattern) > _LONGEST_REGEX:
        raise _invalid(f"it has more than {_LONGEST_REGEX} characters")
    if _REPEATED_GROUP.search(pattern) or _choices(pattern) > _MOST_CHOICES:
        raise _invalid("it could take very long; use three of * + { at most, and none after )")
    try:
        return re.compile(pattern, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as exc:
        raise _invalid(str(exc)) from exc


def _choices(pattern: str) -> int:
    """Roughly the binary logarithm of the ways to match: a repetition counts as four."""
    repetitions = sum(pattern.count(sign) for sign in "*+{")
    return 4 * repetitions + pattern.count("?") + pattern.count("|")


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The regular expression after `~` in `model` is not usable: {why}.",
        param="model",
        code="invalid_value",
    )


def _by_list(name: str, models: Sequence[Model], aliases: Mapping[str, str]) -> list[list[str]]:
    names = _COMMA_OUTSIDE_BRACKETS.split(name)
    if len(names) == 1:
        return []
    return [
        found for each in names[:_LONGEST_LIST] for found in _find(each.strip(), models, aliases)
    ]


def _by_word(word: str, models: Sequence[Model]) -> list[list[str]]:
    if word not in _WORDS:
        return []
    return [[model["id"]] for model in sorted(models, key=_WORDS[word])]


def _time(model: Model) -> tuple[float, str]:
    return expected_seconds(model), model["id"]


def _largest(model: Model) -> float:
    return -(size_of(model["id"]) or 0.0)


def _longest(model: Model) -> float:
    return -_number(model, "context_length")


def _balance(model: Model) -> tuple[bool, float]:
    """Least is best: a context that is enough, then the wait for each bit of capability."""
    size = min(max(size_of(model["id"]) or 1.0, 1.0), 150.0)
    score = (expected_seconds(model) + _START) / math.sqrt(size)
    return _number(model, "context_length") < _ENOUGH_CONTEXT, score


_WORDS: dict[str, Callable[[Model], Any]] = {
    "auto": _balance,
    "fast": _time,
    "large": _largest,
    "long": _longest,
}
