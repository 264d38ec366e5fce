"""The context diet as an agent meets it: the answer, its warning, the settings, and the errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from tests.support import Scripted, World

# Recorded from opencode 1.18.33 with "fix the typo in notes.txt" in an empty project.
OPENCODE: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "opencode_first_request.json").read_text()
)
SAVED = "context diet: schemas shortened, about 2634 tokens saved"


def ask(world: World, **fields: Any) -> TestResponse:
    return world.http().post("/v1/chat/completions", json={**OPENCODE, **fields})


@pytest.mark.parametrize("stream", [True, False])
def test_opencode_is_answered_by_a_worker_of_8192_tokens(world: World, stream: bool) -> None:
    worker = world.employ(Scripted("Hello.<|im_end|>"))
    response = ask(world, stream=stream)
    assert (response.status_code, response.headers["X-Horde-Warnings"]) == (200, SAVED)
    assert '"prompt_tokens":4842' in response.text.replace(" ", "")
    assert '{"type":"function","function":{"name":"todowrite",' in worker.payloads[0]["prompt"]
    assert worker.payloads[0]["max_context_length"] <= 8192


def test_a_larger_worker_gets_the_whole_request(world: World) -> None:
    worker = world.employ(Scripted("Hello.<|im_end|>", context=16_384))
    response = ask(world, stream=False)
    assert "X-Horde-Warnings" not in response.headers
    assert "Never include any part of the line number prefix" in worker.payloads[0]["prompt"]


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"*": False}, {}),
        ({"test/*": False, "*": True}, {}),
        ({}, {"horde": {"context_diet": False}}),
    ],
)
def test_without_the_diet_the_same_request_is_refused_in_words_that_nobody_repeats(
    world: World, settings: dict[str, bool], fields: dict[str, Any]
) -> None:
    world.configure(context_diet=settings)
    worker = world.employ(Scripted("Hello.<|im_end|>"))
    response = ask(world, **fields)
    assert response.status_code == 400
    assert response.json == {
        "error": {
            "message": "The model is too small for this request, also without its older messages: "
            "system prompt 2,481 tokens, tools and formats 5,715 tokens, last message 26 tokens "
            "and answer 2,080 tokens are 10,302 tokens, and the model has room for 8,192. "
            "Use a model with more room, or fewer tools.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "model_too_small",
        }
    }
    assert worker.payloads == []


def test_a_request_may_ask_for_the_diet_that_the_settings_turn_off(world: World) -> None:
    world.configure(context_diet={"*": False})
    world.employ(Scripted("Hello.<|im_end|>"))
    assert ask(world, horde={"context_diet": True}).headers["X-Horde-Warnings"] == SAVED


def test_a_fallback_answers_where_the_model_is_too_small(world: World) -> None:
    world.configure(fallbacks={"test/model": ["test/large"]})
    world.employ(Scripted("Small.<|im_end|>", context=2048))
    world.employ(Scripted("Large.<|im_end|>", "test/large", context=32_768), "worker-2")
    response = ask(world, stream=False)
    assert response.json is not None
    assert response.json["choices"][0]["message"]["content"] == "Large."
