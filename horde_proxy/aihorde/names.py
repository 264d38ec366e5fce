"""The parts of a model's name: engine, author, size, quantisation, user, family.

Workers advertise "engine/author/Model-Q4_K_M::user#1"; the statistics and the model reference of
the horde leave parts out. Names that differ only in engine, author, user or quantisation mean the
same model; a different size or version is a different model. `router.model_names` decides which
models a client's name refers to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, NamedTuple, TypeGuard

CANONICAL = "canonical"
"""The backend of a name without engine."""

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

_LONGEST_NAME = 1000
"""Characters of a model's or a worker's name. AI-Horde keeps models in fields of 256."""
_DEFAULT_TAG = ":latest"
"""What Ollama adds to a name without a tag, in its lists and in all comparisons."""

# "8B", "135M", "0.6b", "8x7B" (Mixtral: experts times size), but neither "A3B" (Qwen3-30B-A3B: the
# parameters that are active) nor the "5b" in "v1.5b".
_SIZE = re.compile(
    r"(?<![a-z0-9.])(?:([0-9]+)x)?([0-9]+(?:\.[0-9]+)?)([bm])(?![a-z0-9])", re.IGNORECASE
)

# What quantisers append to a model's name, here with "-" for each gap:
# llama.cpp     "-q4-k-m", ".i1-q4-k-s", "-iq4-xs.gguf", "-ud-q8-k-xl" (Unsloth), "-mxfp4", "-tq1-0"
# AutoGPTQ      "-gptq", "-4bit-128g"; AWQ "-awq"; bitsandbytes "-bnb-4bit", "-nf4"
# ExLlama       "-4.0bpw-h6-exl2", "-h8-6.0bpw"; MLX "-mlx-8bit"
# vLLM          "-fp8", "-bf16", "-int8", "-w4a16", "-nvfp4"
_QUANTISATION = re.compile(
    r"""(?:[-.:]+(?:
        gguf | ggml | gptq | awq | exl[23] | mlx | bnb | ud | i1 | imat(?:rix)?
        | i?q[1-8](?:-[01k](?:-[0-9])*)?(?:-(?:xxs|xs|s|m|l|xl|nl))? | tq[12]-0
        | b?f(?:p)?(?:4|8|16|32) | (?:mx|nv)fp4 | nf4 | int[48] | w[48]a(?:4|8|16)
        | [2-8]-?bit(?:-[0-9]+g)?
        | (?:h[0-9]-)?[0-9]+(?:\.[0-9]+)?bpw(?:-h[0-9])?
    ))+$""",
    re.VERBOSE,
)

# Quantisers write "google_gemma-3-1b-it" where a name may have no slash. No rule tells an author
# from the first word of a name ("Angelic_Eclipse"), so these are the authors that are often met.
# Qwen is an author only before its own models: "Qwen_Qwen3-0.6B", but not "Qwen_2.5-7B".
_AUTHOR_BEFORE_MODEL = re.compile(
    r"^(?:anthracite-org|arcee-ai|cohereforai|deepseek-ai|google|huggingfacetb|ibm-granite"
    r"|latitudegames|meta-llama|microsoft|mistralai|moonshotai|nousresearch|nvidia|open-?ai"
    r"|readyart|sao10k|thedrummer|tiiuae|zai-org|qwen(?=_qw))_(?=[a-z])",
    re.IGNORECASE,
)
_GAPS = re.compile(r"[\s_-]+")
_GAP = re.compile(r"[\s_]")
# The file formats in "-Q4_K_M.gguf" and "-MLX-8bit"; the imatrix in ".i1-Q4_K_S".
_FILE_FORMAT = re.compile(
    r"(?<![a-z0-9])(?:gguf|ggml|mlx|i1|imat(?:rix)?)(?![a-z0-9])[-_.]?", re.IGNORECASE
)

# "3.1-Foo-8B": the version of the model that Foo was made of.
_LEADING_VERSION = re.compile(r"^[0-9]+(?:\.[0-9]+)+-(?=.)")

# "command-r-08-2024", "Foo-2024-08-Chat".
_DATE = re.compile(r"(?<=-)(?:(?:0[1-9]|1[0-2])-20[0-9]{2}|20[0-9]{2}-(?:0[1-9]|1[0-2]))(?=-|$)")

# Single words of a name: sizes ("8B", "8x7B", "A35B", "E4B", "4K" for a context), versions ("v3.2",
# "v1.6b"), what a variant was tuned for, and dates as "2507" (Qwen's releases).
_NOT_IN_FAMILY = re.compile(
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
    """The parts of a name. `key` is for comparing; `author` is "" in a name without author.

    `backend` is the engine in lower case, or "canonical". `bare` is the text after the last slash,
    without the user; a client may send it as a model's name.
    """

    key: str
    backend: str
    author: str
    bare: str


def canonical(name: str) -> Canonical:
    """The parts of an advertised name, "engine/author/Model-Q4_K_M::user#1".

    Of three or more parts, the first is the engine, even an unknown one.
    """
    *folders, bare = _without_user(name).split("/")
    backend = CANONICAL
    if folders and (folders[0].casefold() in ENGINES or len(folders) > 1):
        backend = folders.pop(0).casefold() or CANONICAL
    author = "/".join(folders)
    prefix, model = _author_and_model(bare)
    key = normalised(model)
    if not key:
        return Canonical(name.casefold(), backend, author, name)
    return Canonical(key, backend, author or prefix, bare)


# The same few hundred names come with each request and each refresh of the statistics.
@lru_cache(maxsize=4096)
def normalised(name: str) -> str:
    """The name without engine, author, user and quantisation; lower case, "-" in each gap."""
    plain = _GAPS.sub("-", untagged(_model_of(name)).casefold()).strip("-.:")
    return _QUANTISATION.sub("", plain)


@lru_cache(maxsize=4096)
def quantisation_of(name: str) -> str | None:
    """What a name says of the weights: "Q4_K_M" of "Model-8B.Q4_K_M.gguf"; None if nothing."""
    # One sign for one sign, so that the match is at the same place in the name itself.
    model = _model_of(name)
    match = _QUANTISATION.search(_GAP.sub("-", model.casefold()))
    words = _FILE_FORMAT.sub("", model[match.start() :]).strip("-_.: ") if match else ""
    return words or None


def size_of(name: str) -> float | None:
    """Billions of parameters in a name: the first number in B, else the first in M."""
    sizes = _SIZE.findall(_model_of(name))
    for unit, billions in (("b", 1.0), ("m", 1e-3)):
        for experts, number, letter in sizes:
            if letter.lower() == unit:
                return float(experts or 1) * float(number) * billions
    return None


def parameters_of(name: str) -> int | None:
    """The number of parameters in a name: 8000000000 for "8B"."""
    billions = size_of(canonical(name).bare)
    return round(billions * 1e9) if billions else None


def family(name: str) -> str:
    """The name without size, version, quantisation, variant word and date, "-" in each gap.

    Compare with casefold. "L3-8B-Stheno-v3.2-Q4_K_M" is of the family "L3-Stheno".
    """
    parts = canonical(name)
    plain = _GAPS.sub("-", _author_and_model(parts.bare)[1]).strip("-.:")
    cut = plain[: len(parts.key)]
    unquantised = cut if cut.casefold() == parts.key else parts.key
    undated = _DATE.sub("", _LEADING_VERSION.sub("", unquantised))
    words = [word for word in undated.split("-") if not _NOT_IN_FAMILY.fullmatch(word)]
    return "-".join(word for word in words if word) or unquantised


def distinct(names: Iterable[str]) -> list[str]:
    """One name for each model, its shortest bare one; in order of first appearance."""
    shortest: dict[str, str] = {}
    for name in names:
        parts = canonical(name)
        best = shortest.setdefault(parts.key, parts.bare)
        if len(parts.bare) < len(best):
            shortest[parts.key] = parts.bare
    return list(shortest.values())


def untagged(name: str) -> str:
    """The name without Ollama's default tag: "llama3.2" and "llama3.2:latest" are one model."""
    is_tagged = name[-len(_DEFAULT_TAG) :].casefold() == _DEFAULT_TAG
    return name[: -len(_DEFAULT_TAG)] if is_tagged else name


def matches_glob(name: str, glob: str) -> bool:
    """Whether the whole name fits a pattern with *, ? and [...], in upper or lower case alike.

    With or without the tag ":latest". But "*:latest" fits tagged names only: as a key's right it
    would otherwise be all models that have no tag.
    """
    is_plain = not any(sign in glob for sign in "*?[")
    patterns = ((name, glob), (untagged(name), untagged(glob) if is_plain else glob))
    return any(fnmatchcase(text.casefold(), pattern.casefold()) for text, pattern in patterns)


def _without_user(name: str) -> str:
    """The name without "::user#1", with which a worker marks a model as its owner's."""
    head, _, user = name.partition("::")
    return head if "#" in user else name


def _author_and_model(bare: str) -> tuple[str, str]:
    """(author, model) of a name without slashes; the author is "" if the name has none."""
    match = _AUTHOR_BEFORE_MODEL.match(bare)
    return (match[0][:-1], bare[match.end() :]) if match else ("", bare)


def _model_of(name: str) -> str:
    return _author_and_model(_without_user(name).rpartition("/")[2])[1]


def is_name(value: Any) -> TypeGuard[str]:
    """Whether a value can be the name of a model or a worker. Workers may advertise anything.

    Names go into logs, headers and labels: no line ends, and no lone surrogates, which UTF-8 cannot
    encode.
    """
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()
