"""Tool calls and strict JSON from the real SmolLM2 in the demo: right although it is so small."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
import requests

from horde_proxy.worker.model_file import installed
from tests.live.processes import Processes, until

MODEL = "horde-proxy/SmolLM2-135M-Instruct"
CITIES = (
    "Oslo",
    "Paris",
    "Rome",
    "Berlin",
    "Madrid",
    "Tokyo",
    "London",
    "Cairo",
    "Lima",
    "Delhi",
    "Athens",
    "Vienna",
    "Prague",
    "Dublin",
    "Lisbon",
    "Warsaw",
    "Sydney",
    "Toronto",
    "Moscow",
    "Beijing",
)
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The name of the city"}},
            "required": ["city"],
        },
    },
}
PET: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "kind": {"enum": ["cat", "dog", "bird"]},
        "toys": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "kind", "toys"],
    "additionalProperties": False,
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

PATIENCE = 3000
"""How long a client waits for an answer (s): a machine that is busy otherwise takes its time."""


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    pytest.importorskip("numpy")
    pytest.importorskip("gguf")
    if installed(None) is None:
        pytest.skip("`horde-proxy model install` has not been run")
    processes = Processes()
    url = processes.serve_horde(server__timeout=str(PATIENCE))
    processes.start("worker", "--horde", url, "--backend", "smollm2", "--idle", "0.05")
    until(lambda: MODEL in requests.get(f"{url}/v1/models", timeout=60).text)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=PATIENCE) as found:
        yield found
    processes.end()


def test_a_named_function_is_called_with_the_right_city(client: openai.OpenAI) -> None:
    right = []
    for city in CITIES:
        chat = client.chat.completions.create(
            model=MODEL,
            tools=[WEATHER],
            messages=[{"role": "user", "content": f"What is the weather in {city}?"}],
            tool_choice={"type": "function", "function": {"name": "get_weather"}},
        )
        [call] = chat.choices[0].message.tool_calls or []
        arguments = json.loads(call.function.arguments)  # type: ignore[union-attr]
        jsonschema.validate(arguments, WEATHER["function"]["parameters"])
        right.append(arguments["city"] == city)
    assert sum(right) >= 19


def test_a_strict_schema_is_met_every_time(client: openai.OpenAI) -> None:
    for number in range(20):
        chat = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Invent pet number {number}."}],
            response_format={
                "type": "json_schema",
                "json_schema": {
                    "name": "pet",
                    "strict": True,
                    "schema": PET,
                },
            },
        )
        jsonschema.validate(json.loads(chat.choices[0].message.content or ""), PET)
