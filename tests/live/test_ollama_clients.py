"""Real clients of Ollama's API against the proxy, with a model that follows a script."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.client_scenario import COLD, GREETING, MODEL, PERSON, THOUGHT
from tests.live.client_programs import SCRIPTS, run
from tests.live.request_tap import RequestTap

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_ollama_for_python_lists_shows_chats_and_generates(tap: RequestTap, python: Path) -> None:
    answer = run([python / "python", SCRIPTS / "ollama_client.py", tap.url, MODEL], SCRIPTS)
    assert json.loads(answer) == {
        "listed": True,
        "capable": True,
        "call": {"city": "Oslo"},
        "text": COLD,
        "thought": THOUGHT,
        "streamed": GREETING,
        "counted": True,
        "object": PERSON,
        "generated": GREETING,
        "missing": 404,
    }


def test_ollama_for_node_and_its_ai_sdk_provider(tap: RequestTap, answer_scripts: Path) -> None:
    answer = run(["node", "ollama_node.mjs", tap.url, MODEL], answer_scripts)
    assert json.loads(answer.splitlines()[-1]) == {
        "streamed": GREETING,
        "asked": ["Oslo"],
        "called": COLD,
        "provided": GREETING,
        "finish": "stop",
    }


def test_langchain_ollama_binds_tools_and_gives_structures(tap: RequestTap, python: Path) -> None:
    script = SCRIPTS / "langchain_ollama_client.py"
    assert json.loads(run([python / "python", script, tap.url, MODEL], SCRIPTS)) == {
        "calls": [["get_weather", {"city": "Oslo"}]],
        "structure": PERSON,
        "streamed": GREETING,
    }
