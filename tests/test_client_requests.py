"""What real clients sent gets legal answers. The model is the one that they talked to.

HORDE_PROXY_RECORD_CLIENTS=1 and `pytest -m slow tests/live/test_clients.py` write these recordings.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.worker.backends.echo import Echo, EchoRule
from tests.client_recordings import RECORDINGS, with_ids
from tests.client_scenario import CODEX_MODELS, MODEL, scenario
from tests.legal_by_path import check_answer
from tests.support import World

_WARNINGS = (
    None,
    # Codex has it for every model that does not live in an item of its own.
    "tools: type 'web_search' left out",
    # The specification of OpenResponses has a case with a picture, which this model cannot see.
    "messages: image left out, no alchemist is online",
)


def echo() -> Echo:
    """The model of the recordings, whose folder has the name that the recordings give it."""
    rules = scenario(Path("/project"))
    return Echo(scenario=[EchoRule(re.compile(rule["when"], re.S), rule["say"]) for rule in rules])


@pytest.mark.parametrize("recording", sorted(RECORDINGS.glob("*.json")), ids=lambda path: path.stem)
def test_the_calls_of_a_client_get_legal_answers(recording: Path) -> None:
    world = World(aliases=dict.fromkeys(CODEX_MODELS, MODEL))
    world.employ(echo())
    client = world.http()
    answers: list[str] = []
    calls: list[dict[str, Any]] = json.loads(recording.read_text(encoding="utf-8"))
    for call in calls:
        path, body = with_ids([call["path"], call["body"]], answers)
        answer = client.open(path, method=call["method"], headers=call["headers"], json=body)
        answers.append(answer.text)
        assert answer.status_code == call["status"], answer.text[:1000]
        assert answer.headers.get("X-Horde-Warnings") in _WARNINGS
        if answer.status_code == 200:
            check_answer(path.partition("?")[0], body, answer.text)
