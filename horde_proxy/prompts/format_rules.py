"""Chooses the chat format of a model by its name: the first matching rule wins. Pure.

Rules match whole words of the model's own name, without author and quantisation: "EVA" is found
neither in "Nevada" nor in EVA-UNIT-01/Some-Llama-3. They follow the makers' model cards and the
labels in AI-Horde's own list of models; a setting overrides them. Special names come before the
general ones that they contain (gemma4 before gemma).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from horde_proxy.aihorde.names import matches_glob, normalised
from horde_proxy.prompts.formats import FORMATS, PLACEHOLDERS, Format

# Models of workers that fill in PLACEHOLDERS: koboldcpp puts its own name before each model, and
# this project's worker does the same.
_WORKER_FORMATTED = ("koboldcpp/", "horde-proxy/")

# (format, regular expression for a part of the name). Fine-tunes with another format than their
# base model are listed because their card or AI-Horde's list says so.
_RULES: tuple[tuple[str, str], ...] = (
    # Fine-tunes that carry the name of their base model but were trained with ChatML, and the
    # other way round: zephyr-7b-gemma, dolphin-2.9-gemma2, Kimi-Dev-72B (Qwen2.5)
    ("mistral-v7-tekken", r"dolphin-mistral-24b-venice"),
    (
        "chatml",
        r"zephyr-7b-gemma|dolphin|kimi-dev|neuralhermes|mistral-7b-openorca|orca-?2"
        r"|noromaid-(?:v0\.4-)?mixtral|chronos-70b-v2",
    ),
    # Families whose makers use one format: gpt-oss-20b, gemma-4-31b, G4-..., DeepSeek-V3, GLM-4.6
    ("harmony", r"gpt-oss"),
    ("gemma4", r"gemma-?4|equinox-31b|g4(?=-)"),
    (
        "gemma",
        r"(?:med|shield|code)?gemma|gemmasutra|tiger-gemma|fallen-gemma|customgemma2|darkest-muse",
    ),
    # DeepSeek's first coder has Alpaca's tags; its first chats, V2, V2's Lite and Coder write
    # "User:"; V2.5 has the tags of V3, as have fine-tunes of R1 under other names
    ("alpaca", r"deepseek-coder-[\d.]+b"),
    ("deepseek-v2", r"deepseek-(?:llm|moe|(?:coder-)?v2(?!\.\d))"),
    ("deepseek", r"deepseek|mai-ds-r1|r1-1776"),
    ("glm4", r"glm|chatglm"),
    ("command-r", r"command-?[ra]|c4ai|aya|agatha|coomand-r"),
    ("phi4-mini", r"phi-?4-(?:mini|multimodal)"),
    ("phi4", r"phi-?4"),
    ("phi3", r"phi-?3(?:\.5)?"),
    ("granite", r"granite"),
    ("kimi", r"kimi|moonlight-16b"),
    ("minimax", r"minimax"),
    ("jamba", r"jamba"),
    ("seed-oss", r"seed-?oss"),
    ("dots", r"dots\.llm1"),
    # By full names, because the first word alone is also in names of others: Impish_LLAMA_4B is
    # Llama 3 of 4B; merges are named after a parent of another format; openchat-3.6 has tags of
    # Llama 3; RWKV Raven has other roles than RWKV World; TinyLlama v0.4 had ChatML.
    ("llama4", r"llama-?4-(?:scout|maverick)|llama-guard-?4"),
    (
        "zephyr",
        r"zephyr-7b-(?:alpha|beta)|zephyr-(?:orpo-)?141b|stablelm-(?:2-)?zephyr"
        r"|tinyllama-1\.1b-chat-v1\.0|^tinyllama(?:-1\.1b)?$|^zephyr(?:-7b)?$",
    ),
    ("tulu", r"tulu-?[23]|olmo-?2|olmoe-1b"),
    ("llama3", r"openchat-3\.6"),
    ("openchat", r"^(?:openchat-){1,2}3\.5|^openchat(?:-7b)?$|starling-lm(?:-7b)?"),
    # rwkv-6-world, v6-Finch-7B-HF-World (RWKV's own), rwkv7-g1
    ("rwkv", r"rwkv[\w.-]{0,30}world\d?|v[67]-(?:finch|goose)|rwkv-?7-g1"),
    # TheDrummer's: the base model decides, not the maker: Behemoth-123B-v2, Cydonia-24B-v4.3, and
    # Cydonia-22B, Cydonia-v1.3-Magnum-v4-22B, Skyfall-39B on Mistral Small of 2024
    ("metharme", r"behemoth-123b-v[12]|pygmalion-2|mythalion|metharme"),
    ("mistral-v3", r"behemoth-(?:r1|x|redux)|cydonia-[\w.-]{0,30}22b|cydonia-22b|skyfall-39b"),
    # ChatML on Mistral Small 3
    ("chatml", r"harbinger-24b|hearthfire-24b"),
    # DeepHermes has Llama 3's tags on a Mistral, too
    ("llama3", r"deephermes"),
    (
        "mistral-v7-tekken",
        r"cydonia|magidonia|skyfall|precog-24b|broken-tutu|dark-nexus-24b|paintedfantasy"
        r"|ms3\.2|forgotten-safeword|mistral-small-?3|mistral-small-24b|magistral|devstral"
        r"|ministral-?3|mistral-large-3",
    ),
    (
        "mistral-v3-tekken",
        r"rocinante-x|rocinante-xl|mistral-nemo-instruct|^mistral-nemo(?:-12b)?$|ministral"
        r"|mini-magnum-12b|pixtral-12b|nemomix-unleashed|mistral-nemo-12b-arliai",
    ),
    # Magnum: each size has another base, magnum-v4-27b (ChatML) and magnum-v4-22b (Mistral)
    ("chatml", r"magnum-12b-v2|magnum-v3-27b|magnum-v4-(?:9b|27b|72b)"),
    ("mistral-v3", r"magnum-v4-(?:12b|22b|123b)|magnum-v2-123b"),
    # Nous Hermes 1 had Alpaca's tags, and Hermes 4 on Llama has Llama 3's
    ("alpaca", r"nous-hermes-(?:llama-?2|13b)|chronos-hermes"),
    ("llama3", r"hermes-4-(?:70b|405b)|hermes-4\.3|eva-llama"),
    # Fine-tunes that were trained with ChatML on a base that has another format
    (
        "chatml",
        r"hermes|openhermes|snowpiercer|pantheon|neonmaid|mag-mell|rocinante"
        r"|unslopnemo|dans-personalityengine|muse|eva|nemoreremix|etherealaurora",
    ),
    # Families of ChatML: Qwen2.5-7B, QwQ-32B, EVA on Q2.5, Yi-34B, SmolLM2-1.7B
    ("chatml", r"qwen[\d.]*|qwq|q2\.5|q3\.5|yi|nemotron-3|nemotron-cascade|smollm[\d.]*"),
    ("mistral-v3", r"lumimaid-(?:v[\d.]+-)?(?:12b|123b)|luminum"),
    # Vicuna's tags, on Mixtral and Llama 2: before the names and sizes of those
    (
        "vicuna",
        r"midnight-(?:miqu|rose)|miqu|vicuna|wizardlm-?(?:2|13b|70b)|xwin-lm|goliath|lzlv"
        r"|nous-capybara",
    ),
    # Mistral's own, by release: Mistral-7B-Instruct-v0.2, Mistral-Large-Instruct-2411
    ("mistral-v3", r"mixtral-8x22b"),
    ("mistral-v1", r"mixtral|mistral-7b(?:-instruct)?-v0\.[12]"),
    ("mistral-v7", r"(?:mistral|pixtral)-large(?:-instruct)?-2411"),
    ("mistral-v3", r"mistral-7b|^mistral$|mistral-large|mistral-small|codestral|mathstral"),
    # Fine-tunes of Llama 2 that are named like later ones: Euryale-1.3-L2-70B
    ("alpaca", r"euryale-[\d.]+-l2"),
    # Llama 3 and its merges: L3-8B-Stheno, L3.3-70B-Euryale, Llama-3.1-8B. Only Llama 3 has an 8B;
    # 70B without a version is one of its merges.
    (
        "llama3",
        r"l3|l3\.[0-9]|llama-?3(?:\.[0-9])?|stheno|lunaris|euryale|anubis|nevoria|electra"
        r"|sapphira|valkyrie|hanami|3some|lexi|lumimaid|impish-llama|llama-(?:8b|70b)"
        r"|nautilus-70b|neuraldaredevil|athene-70b",
    ),
    # Meta's own chats of Llama 2, e.g. Llama-2-7b-chat-hf; a name that goes on is a fine-tune's
    (
        "llama2",
        r"llama-?2-\d+b-chat(?:-hf)?$|^llama2(?:-\d+b)?$|codellama-(?:7|13|34)b-instruct"
        r"|^codellama(?:-(?:7|13|34)b)?$",
    ),
    # Fine-tunes of Llama 2 and its time: Fimbulvetr-11B, MythoMax-L2-13b
    (
        "alpaca",
        r"fimbulvetr|tiefighter(?:lr)?|psyfighter[\d]*|mythom(?:ax|ist)|westlake|estopianmaid"
        r"|storytime|psyonic-cetacean|beepo-22b|celeste-12b-v1\.6|solar|noromaid"
        r"|kobbletiny(?:v2)?|frostwind|kaiju-11b|kunoichi|silicon-maid|toppy-m|wizardcoder",
    ),
    # By size alone: 12B is probably Nemo, 22B and 123B are Mistral's of 2024, 24B Mistral Small 3,
    # 13B and 20B Llama 2
    ("chatml", r"nemo|12b"),
    ("mistral-v3", r"22b|123b"),
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
    # Ollama writes "mistral-small3.2:24b" and "zephyr".
    return _by_rules(normalised(model).replace(":", "-"))


# An agent asks for the same few models again and again, and a page for all of a horde.
@lru_cache(maxsize=4096)
def _by_rules(name: str) -> Format:
    """The format of the first rule that matches a model's own name, without its author's."""
    return next(
        (format for format, pattern in _COMPILED if pattern.search(name)), FORMATS["chatml"]
    )
