"""Which chat format a model wants, by its name. Rules in order, first hit wins; pure.

Names are matched as whole words, so that "EVA" is not found in "Nevada". The rules follow
what the makers of these models say of them; a setting overrides each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from horde_proxy.aihorde.names import matches_glob
from horde_proxy.prompts.formats import FORMATS, PLACEHOLDERS, Format

_WORKER_FORMATTED = ("koboldcpp/", "horde-proxy/")

_RULES: tuple[tuple[str, str], ...] = (
    ("harmony", r"gpt-oss"),
    ("gemma4", r"gemma-?4|equinox-31b|g4(?=-)"),
    ("gemma", r"gemma|gemmasutra|tiger-gemma|fallen-gemma"),
    ("deepseek", r"deepseek"),
    ("glm4", r"glm|chatglm"),
    ("command-r", r"command-?[ra]|c4ai|aya|agatha"),
    ("phi4-mini", r"phi-?4-mini"),
    ("phi4", r"phi-?4"),
    ("phi3", r"phi-?3(?:\.5)?"),
    ("granite", r"granite"),
    ("kimi", r"kimi"),
    ("minimax", r"minimax"),
    ("metharme", r"behemoth-123b-v2|pygmalion-2|mythalion|metharme"),
    ("mistral-v3", r"behemoth-(?:r1|x|redux)|cydonia-22b"),
    (
        "mistral-v7-tekken",
        r"cydonia|magidonia|skyfall|precog-24b|broken-tutu|dark-nexus-24b|paintedfantasy"
        r"|ms3\.2|forgotten-safeword|mistral-small-3|mistral-small-24b|magistral|devstral",
    ),
    (
        "mistral-v3-tekken",
        r"rocinante-x|rocinante-xl|mistral-nemo-instruct|ministral|mini-magnum-12b",
    ),
    ("chatml", r"magnum-12b-v2|magnum-v3-27b|magnum-v4-(?:9b|27b|72b)"),
    ("mistral-v3", r"magnum-v4-(?:12b|22b|123b)"),
    ("chatml", r"noromaid-mixtral|chronos-70b-v2"),
    (
        "chatml",
        r"hermes|openhermes|dolphin|snowpiercer|pantheon|neonmaid|mag-mell|rocinante"
        r"|unslopnemo|dans-personalityengine|muse|eva|nemoreremix|etherealaurora",
    ),
    ("chatml", r"qwen[\d.]*|qwq|q2\.5|q3\.5|yi|nemotron-3|nemotron-cascade|smollm[\d.]*"),
    ("mistral-v3", r"lumimaid-(?:v[\d.]+-)?(?:12b|123b)|luminum"),
    ("mistral-v1", r"mixtral|mistral-7b(?:-instruct)?-v0\.[12]"),
    ("mistral-v7", r"mistral-large(?:-instruct)?-2411"),
    ("mistral-v3", r"mistral-7b|mistral-large|mistral-small|codestral"),
    (
        "llama3",
        r"l3|l3\.[0-9]|llama-?3(?:\.[0-9])?|stheno|lunaris|euryale|anubis|nevoria|electra"
        r"|sapphira|valkyrie|hanami|3some|lexi|lumimaid|impish[-_]llama",
    ),
    (
        "alpaca",
        r"fimbulvetr|tiefighter(?:lr)?|psyfighter[\d]*|mythomax|westlake|estopianmaid|storytime"
        r"|psyonic-cetacean|beepo-22b|celeste-12b-v1\.6|solar|noromaid|kobbletiny",
    ),
    ("vicuna", r"midnight-miqu|miqu|vicuna"),
    ("chatml", r"nemo|12b"),
    ("mistral-v7-tekken", r"24b"),
    ("alpaca", r"l2|llama-?2|13b|20b"),
)

_COMPILED = tuple(
    (FORMATS[name], re.compile(rf"(?<![a-z0-9])(?:{pattern})(?![a-z])", re.IGNORECASE))
    for name, pattern in _RULES
)


def choose_format(
    model: str, overrides: Mapping[str, str] | None = None, *, placeholders: bool = True
) -> Format:
    """The chat format for a model: the user's globs first, then the worker's own, then the rules.

    `placeholders`: whether workers that fill in their own tags (koboldcpp) are asked to.
    """
    for glob, name in (overrides or {}).items():
        if matches_glob(model, glob):
            return FORMATS[name]
    if placeholders and model.lower().startswith(_WORKER_FORMATTED):
        return PLACEHOLDERS
    return next(
        (format for format, pattern in _COMPILED if pattern.search(model)), FORMATS["chatml"]
    )
