"""Which format a model's name leads to.

tests/data/model_names.json: names that hordes served or that are well known, by the format of the
model's own template. The names are from captures of workers, from Hugging Face and from Ollama.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from horde_proxy.prompts.format_rules import choose_format
from horde_proxy.prompts.formats import FORMATS

NAMES = {
    "openai/gpt-oss-20b": "harmony",
    "google/gemma-4-31b": "gemma4",
    "aphrodite/TheDrummer/G4-Foo-31B": "gemma4",
    "Equinox-31B": "gemma4",
    "google/gemma-3-27b-it": "gemma",
    "TheDrummer/Tiger-Gemma-9B-v3": "gemma",
    "TheDrummer/Gemmasutra-9B": "gemma",
    "aphrodite/DeepSeek-V3.1": "deepseek",
    "zai-org/GLM-4.6": "glm4",
    "Foo-GLM-32B": "glm4",
    "CohereForAI/c4ai-command-r-08-2024": "command-r",
    "CohereForAI/aya-expanse-8b": "command-r",
    "microsoft/phi-4": "phi4",
    "microsoft/Phi-4-mini-instruct": "phi4-mini",
    "microsoft/Phi-3.5-mini-instruct": "phi3",
    "ibm-granite/granite-3.1-8b": "granite",
    "moonshotai/Kimi-K2": "kimi",
    "MiniMaxAI/MiniMax-M2": "minimax",
    "deepseek-ai/DeepSeek-V2-Lite": "deepseek-v2",
    "deepseek-ai/DeepSeek-V2-Chat": "deepseek-v2",
    "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct": "deepseek-v2",
    "deepseek-ai/DeepSeek-V2.5": "deepseek",
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B": "deepseek",
    "ai21labs/AI21-Jamba-1.5-Mini": "jamba",
    "ByteDance-Seed/Seed-OSS-36B-Instruct": "seed-oss",
    "Seed-OSS-36B": "seed-oss",
    "rednote-hilab/dots.llm1.inst": "dots",
    "aphrodite/meta-llama/Llama-4-Scout-17B-16E": "llama4",
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct": "llama4",
    "HuggingFaceH4/zephyr-7b-beta": "zephyr",
    "stabilityai/stablelm-2-zephyr-1_6b": "zephyr",
    "stabilityai/stablelm-zephyr-3b": "zephyr",
    "allenai/Llama-3.1-Tulu-3-8B": "tulu",
    "allenai/tulu-2-dpo-13b": "tulu",
    "openchat/openchat-3.5-0106": "openchat",
    "openchat_3.5": "openchat",
    "BlinkDL/RWKV-6-World-7B": "rwkv",
    "rwkv-x060-world-3b": "rwkv",
    "meta-llama/Llama-2-7b-chat-hf": "llama2",
    "Llama-2-13B-chat-GGUF": "llama2",
    "llama-2-70b-chat.Q4_K_M": "llama2",
    # Names that only contain a word of those above, whose format is another one
    "Some-Llama-4B": "chatml",
    "Zephyr-Storm-Merge-7B": "chatml",
    "Seraph-openchat-3.5-1210-Slerp": "chatml",
    "openchat-3.6-8b": "llama3",
    "QRWKV6-32B-Instruct": "chatml",
    "Connecting-dots-7B": "chatml",
    "Llama-2-7b-chat-uncensored": "alpaca",
    "Llama-2-7b-Pirate": "alpaca",
    "TheDrummer/Behemoth-123B-v2.2": "metharme",
    "Pygmalion-2-13b": "metharme",
    "Mythalion-13b": "metharme",
    "aphrodite/TheDrummer/Behemoth-X-123B-v2.1": "mistral-v3",
    "TheDrummer/Behemoth-R1-123B-v2": "mistral-v3",
    "TheDrummer/Cydonia-22B-v1.3": "mistral-v3",
    "TheDrummer/Cydonia-24B-v4.3": "mistral-v7-tekken",
    "aphrodite/TheDrummer/Skyfall-31B-v4.2": "mistral-v7-tekken",
    "mistralai/Mistral-Small-3.2-24B": "mistral-v7-tekken",
    "mistralai/Devstral-Small": "mistral-v7-tekken",
    "MS3.2-PaintedFantasy-v2-24B": "mistral-v7-tekken",
    "TheDrummer/Rocinante-X-12B-v1": "mistral-v3-tekken",
    "TheDrummer/Rocinante-XL-16B": "mistral-v3-tekken",
    "mistralai/Mistral-Nemo-Instruct-2407": "mistral-v3-tekken",
    "intervitens/mini-magnum-12b-v1.1": "mistral-v3-tekken",
    "anthracite-org/magnum-v4-12b": "mistral-v3",
    "anthracite-org/magnum-v4-72b": "chatml",
    "anthracite-org/magnum-12b-v2": "chatml",
    "TheDrummer/Rocinante-12B-v1": "chatml",
    "MN-12B-Mag-Mell-R1": "chatml",
    "NousResearch/Hermes-3-Llama-3.1-8B": "chatml",
    "EVA-UNIT-01/EVA-Qwen2.5-32B": "chatml",
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "chatml",
    "01-ai/Yi-34B-Chat": "chatml",
    "chronos-70b-v2": "chatml",
    "Noromaid-Mixtral-8x7B": "chatml",
    "Sao10K/L3-8B-Stheno-v3.2": "llama3",
    "Sao10K/L3.3-70B-Euryale-v2.3": "llama3",
    "Meta-Llama-3.1-8B-Instruct": "llama3",
    "Llama-3-Lumimaid-8B-v0.1": "llama3",
    "Sicarius/Impish_LLAMA_4B": "llama3",
    "NeverSleep/Lumimaid-v0.2-12B": "mistral-v3",
    "mistralai/Mixtral-8x7B-Instruct-v0.1": "mistral-v1",
    "mistralai/Mistral-7B-Instruct-v0.2": "mistral-v1",
    "mistralai/Mistral-7B-Instruct-v0.3": "mistral-v3",
    "mistralai/Mistral-Large-Instruct-2411": "mistral-v7",
    "Sao10K/Fimbulvetr-11B-v2": "alpaca",
    "LLaMA2-13B-Tiefighter": "alpaca",
    "LLaMA2-13B-Psyfighter2": "alpaca",
    "nothingiisreal/MN-12B-Celeste-12B-V1.6": "alpaca",
    "NeverSleep/Noromaid-13b": "alpaca",
    "KobbleTiny-1.1B": "alpaca",
    "Midnight-Miqu-70B-v1.5": "vicuna",
    "Some-New-12B": "chatml",
    "Some-New-24B": "mistral-v7-tekken",
    "Some-Old-13B": "alpaca",
    "something-never-heard-of": "chatml",
}

KNOWN: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "data" / "model_names.json").read_text(encoding="utf-8")
)
# What engines, quantisers and owners of workers put before and behind a name.
VARIANTS = (
    *("aphrodite/{}", "{}-Q4_K_M", "{}.i1-Q4_K_S", "{}-IQ4_XS.gguf", "{}-UD-Q8_K_XL", "{}-GGUF"),
    *("{}-4.0bpw-h6-exl2", "{}-nvfp4", "{}-FP8", "{}-AWQ", "{}::Alice#123"),
)

BY_SETTING_ONLY = {
    "placeholders": "for names that a worker begins with koboldcpp/, see below",
    "qwen3-nothink": "whether a model shall think is a wish, and not in its name",
    "plain": "for base models, whose names do not say that they are",
}


def test_every_format_is_reached_by_some_name_or_by_a_setting_only() -> None:
    assert set(FORMATS) == {*NAMES.values(), *BY_SETTING_ONLY}
    assert not set(NAMES.values()) & set(BY_SETTING_ONLY)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_leads_to_its_familys_format(name: str) -> None:
    assert choose_format(name).name == NAMES[name]


def test_the_known_names_are_of_all_formats() -> None:
    assert set(KNOWN) == set(FORMATS) - set(BY_SETTING_ONLY)
    assert sum(map(len, KNOWN.values())) > 300


@pytest.mark.parametrize("format", KNOWN)
def test_known_names_lead_to_the_format_of_their_template(format: str) -> None:
    formats = {name: choose_format(name, placeholders=False).name for name in KNOWN[format]}
    assert formats == dict.fromkeys(KNOWN[format], format)


@pytest.mark.parametrize("variant", VARIANTS)
def test_engines_and_quantisations_change_no_format(variant: str) -> None:
    expected = {variant.format(name): format for format in KNOWN for name in KNOWN[format]}
    formats = {name: choose_format(name, placeholders=False).name for name in expected}
    assert formats == expected


def test_a_format_is_not_chosen_by_the_authors_name() -> None:
    assert choose_format("Gemma-Fans/Some-Llama-3-8B").name == "llama3"


@pytest.mark.parametrize("name", ["koboldcpp/Gemma-3-4b", "KoboldCpp/x", "horde-proxy/echo"])
def test_workers_that_fill_in_their_own_tags_get_placeholders(name: str) -> None:
    assert choose_format(name).name == "placeholders"


def test_placeholders_can_be_turned_off() -> None:
    assert choose_format("koboldcpp/L3-8B-Stheno-v3.2", placeholders=False).name == "llama3"


def test_the_users_globs_come_first_and_ignore_case() -> None:
    overrides = {"KOBOLDCPP/*stheno*": "alpaca", "*": "plain"}
    assert choose_format("koboldcpp/L3-8B-Stheno-v3.2", overrides).name == "alpaca"
    assert choose_format("koboldcpp/other", overrides).name == "plain"


@pytest.mark.parametrize("name", ["Meadowlark-7b", "Shadow-Crystal-7b", "Nevada-7b", "Amuse-7b"])
def test_a_key_inside_another_word_is_not_found(name: str) -> None:
    assert choose_format(name).name == "chatml"
