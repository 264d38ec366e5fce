"""The real SmolLM2-135M-Instruct; skipped where `horde-proxy model install` has not been run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
pytest.importorskip("numpy")
pytest.importorskip("gguf")

from horde_proxy.worker.llama import Llama
from horde_proxy.worker.model_file import installed

COUNTS = Path(__file__).parent.parent / "data" / "llama_token_counts.json"


@pytest.fixture(scope="module")
def smollm2() -> Llama:
    path = installed(Path(chosen) if (chosen := os.environ.get("SMOLLM2_GGUF")) else None)
    if path is None:
        pytest.skip("SmolLM2 is neither installed nor named by SMOLLM2_GGUF")
    return Llama.load(path)


def chat(llama: Llama, text: str) -> str:
    tags = llama.tags
    system = f"{tags['SYSTEM']}You are a helpful assistant.{tags['SYSTEM_END']}"
    return f"{system}{tags['INPUT']}{text}{tags['INPUT_END']}{tags['OUTPUT']}"


def test_the_capital_of_france_is_paris(smollm2: Llama) -> None:
    payload = {"prompt": "The capital of France is", "max_length": 2, "temperature": 0}
    assert smollm2.generate(payload) == " Paris."


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is the largest planet of the solar system?", "Jupiter"),
        ("How many days does a week have?", "7"),
    ],
)
def test_a_chat_is_answered_and_the_turn_ended(
    smollm2: Llama, question: str, expected: Any
) -> None:
    payload = {"prompt": chat(smollm2, question), "max_length": 200, "temperature": 0}
    text = smollm2.generate(payload)
    assert expected in text
    assert smollm2.count_tokens(text) < 200


def test_a_long_text_stays_english(smollm2: Llama) -> None:
    prompt = chat(smollm2, "Write a short story about a dog who finds a key.")
    words = smollm2.generate({"prompt": prompt, "max_length": 80, "temperature": 0}).split()
    assert len(words) > 40
    assert {"the", "a", "dog"} <= {word.strip(".,").lower() for word in words}


def test_the_model_tells_what_it_is(smollm2: Llama) -> None:
    said = (smollm2.name, smollm2.max_context_length, smollm2.tags["OUTPUT"])
    assert said == ("horde-proxy/SmolLM2-135M-Instruct", 8192, "<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello world!", [19556, 905, 17]),
        ("I'll pay 1984 euros,\n", [57, 3060, 2290, 216, 33, 41, 40, 36, 39236, 28, 198]),
        ("\tit's ½ off  ...", [197, 269, 506, 216, 16738, 767, 216, 4563]),
        ("<|im_start|>user\nHi<|im_end|>\n", [1, 4093, 198, 26843, 2, 198]),
        ("def f(x):\n    return x", [1604, 275, 24, 104, 727, 472, 1003, 1792]),
        ("Käse 你好 😀", [59, 9023, 313, 216, 18645, 250, 48392, 138, 40303, 218]),
    ],
)
def test_token_ids_are_those_of_the_reference_tokenizer(
    smollm2: Llama, text: str, expected: Any
) -> None:
    assert expected == smollm2._vocabulary.encode(text)


def test_the_recorded_token_counts_hold(smollm2: Llama) -> None:
    samples = json.loads(COUNTS.read_text(encoding="utf-8"))
    expected = [sample["tokens"] for sample in samples]
    assert expected == [smollm2.count_tokens(sample["text"]) for sample in samples]
