"""Chooses the chat format of a model by its name: the first matching rule wins. Pure.

Rules match whole words, so that "EVA" is not found in "Nevada". They follow the makers' model cards
and the labels in AI-Horde's own list of models; a setting overrides them. Special names come before
the general ones that they contain (gemma4 before gemma).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from horde_proxy.aihorde.names import matches_glob
from horde_proxy.prompts.formats import FORMATS, PLACEHOLDERS, Format

# Models of workers that fill in PLACEHOLDERS: koboldcpp puts its own name before each model, and
# this project's worker does the same.
_WORKER_FORMATTED = ("koboldcpp/", "horde-proxy/")

# (format, regular expression for a part of the name). Fine-tunes with another format than their
# base model are listed because their card or AI-Horde's list says so.
_RULES: tuple[tuple[str, str], ...] = (
    # Families whose makers use one format: gpt-oss-20b, gemma-4-31b, G4-..., DeepSeek-V3, GLM-4.6
    ("harmony", r"gpt-oss"),
    ("gemma4", r"gemma-?4|equinox-31b|g4(?=-)"),
    ("gemma", r"gemma|gemmasutra|tiger-gemma|fallen-gemma"),
    # V2, its Lite and Coder; V2.5 has the tags of V3
    ("deepseek-v2", r"deepseek-(?:coder-)?v2(?!\.\d)"),
    ("deepseek", r"deepseek"),
    ("glm4", r"glm|chatglm"),
    ("command-r", r"command-?[ra]|c4ai|aya|agatha"),
    ("phi4-mini", r"phi-?4-mini"),
    ("phi4", r"phi-?4"),
    ("phi3", r"phi-?3(?:\.5)?"),
    ("granite", r"granite"),
    ("kimi", r"kimi"),
    ("minimax", r"minimax"),
    ("jamba", r"jamba"),
    ("seed-oss", r"seed-?oss"),
    ("dots", r"dots\.llm1"),
    # By full names, because the first word alone is also in names of others: Impish_LLAMA_4B is
    # Llama 3 of 4B; zephyr-7b-gemma has ChatML; merges are named after a parent of another format;
    # openchat-3.6 has tags of Llama 3; RWKV Raven has other roles than RWKV World.
    ("llama4", r"llama-?4-(?:scout|maverick)"),
    ("zephyr", r"zephyr-7b-(?:alpha|beta)|zephyr-orpo-141b|stablelm-(?:2-)?zephyr"),
    ("tulu", r"tulu-[23]"),
    ("openchat", r"(?<![^/])openchat[-_]3\.5"),
    ("rwkv", r"rwkv[\w.-]{0,30}world"),
    # TheDrummer's: the base model decides, not the maker: Behemoth-123B-v2, Cydonia-24B-v4.3
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
    # Magnum: each size has another base, magnum-v4-27b (ChatML) and magnum-v4-22b (Mistral)
    ("chatml", r"magnum-12b-v2|magnum-v3-27b|magnum-v4-(?:9b|27b|72b)"),
    ("mistral-v3", r"magnum-v4-(?:12b|22b|123b)"),
    # Fine-tunes that were trained with ChatML on a base that has another format
    ("chatml", r"noromaid-mixtral|chronos-70b-v2"),
    (
        "chatml",
        r"hermes|openhermes|dolphin|snowpiercer|pantheon|neonmaid|mag-mell|rocinante"
        r"|unslopnemo|dans-personalityengine|muse|eva|nemoreremix|etherealaurora",
    ),
    # Families of ChatML: Qwen2.5-7B, QwQ-32B, EVA on Q2.5, Yi-34B, SmolLM2-1.7B
    ("chatml", r"qwen[\d.]*|qwq|q2\.5|q3\.5|yi|nemotron-3|nemotron-cascade|smollm[\d.]*"),
    ("mistral-v3", r"lumimaid-(?:v[\d.]+-)?(?:12b|123b)|luminum"),
    # Mistral's own, by release: Mistral-7B-Instruct-v0.2, Mistral-Large-Instruct-2411
    ("mistral-v1", r"mixtral|mistral-7b(?:-instruct)?-v0\.[12]"),
    ("mistral-v7", r"mistral-large(?:-instruct)?-2411"),
    ("mistral-v3", r"mistral-7b|mistral-large|mistral-small|codestral"),
    # Llama 3 and its merges: L3-8B-Stheno, L3.3-70B-Euryale, Llama-3.1-8B
    (
        "llama3",
        r"l3|l3\.[0-9]|llama-?3(?:\.[0-9])?|stheno|lunaris|euryale|anubis|nevoria|electra"
        r"|sapphira|valkyrie|hanami|3some|lexi|lumimaid|impish[-_]llama",
    ),
    # Meta's own chats of Llama 2, e.g. Llama-2-7b-chat-hf; a name that goes on is a fine-tune's
    ("llama2", r"llama-?2-\d+b-chat(?:-hf)?(?=$|[.-](?:q\d|gguf|gptq|awq))"),
    # Fine-tunes of Llama 2 and its time: Fimbulvetr-11B, MythoMax-L2-13b
    (
        "alpaca",
        r"fimbulvetr|tiefighter(?:lr)?|psyfighter[\d]*|mythomax|westlake|estopianmaid|storytime"
        r"|psyonic-cetacean|beepo-22b|celeste-12b-v1\.6|solar|noromaid|kobbletiny",
    ),
    ("vicuna", r"midnight-miqu|miqu|vicuna"),
    # By size alone: 12B is probably Nemo, 24B Mistral Small 3, 13B and 20B Llama 2
    ("chatml", r"nemo|12b"),
    ("mistral-v7-tekken", r"24b"),
    ("alpaca", r"l2|llama-?2|13b|20b"),
)

# A rule matches whole words: "eva" in "EVA-Qwen" and "Eva02", but neither in "Nevada" nor "evax".
_COMPILED = tuple(
    (FORMATS[name], re.compile(rf"(?<![a-z0-9])(?:{pattern})(?![a-z])", re.IGNORECASE))
    for name, pattern in _RULES
)


def choose_format(
    model: str, overrides: Mapping[str, str] | None = None, *, placeholders: bool = True
) -> Format:
    """The chat format for a model: by the user's globs, else by its worker, else by the rules.

    `placeholders`: workers that can fill in the tags (koboldcpp) shall do so. If no rule matches,
    the format is ChatML, with which most models were trained.
    """
    for glob, name in (overrides or {}).items():
        if matches_glob(model, glob):
            return FORMATS[name]
    if placeholders and model.lower().startswith(_WORKER_FORMATTED):
        return PLACEHOLDERS
    return next(
        (format for format, pattern in _COMPILED if pattern.search(model)), FORMATS["chatml"]
    )
