"""Real clients of chat completions against the proxy, with a model that follows a script."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
import requests

from tests.client_scenario import COLD, GREETING, MODEL, PERSON
from tests.live.client_programs import OPENCODE, SCRIPTS, run
from tests.live.request_tap import RequestTap
from tests.live.scripted_proxy import serve_script

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def served_small(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[str, Path]]:
    """The same with a worker whose context has the parameter's tokens."""
    yield from serve_script(tmp_path_factory, "--max-context-length", str(request.param))


@pytest.fixture
def opencode(
    tap: RequestTap, served: tuple[str, Path], chat_packages: Path, tmp_path: Path
) -> Callable[[str], str]:
    """Runs opencode in the project's folder, with the configuration that the proxy gives."""
    return configured(tap.url, served[1], chat_packages, tmp_path)


def configured(
    url: str, folder: Path, packages: Path, home: Path, *options: str
) -> Callable[[str], str]:
    (folder / "notes.txt").write_text("helo world\n")
    for name in ("done.txt", "opencode.json"):
        (folder / name).unlink(missing_ok=True)
    made = [sys.executable, "-m", "horde_proxy", "opencode", "--once", "--url", url, *options]
    run([*made, "--output", folder / "opencode.json"], cwd=folder)

    def opened(prompt: str) -> str:
        program = packages / "node_modules" / ".bin" / "opencode"
        return run([program, "run", "--title", "t", prompt], folder, HOME=str(home), **OPENCODE)

    return opened


def test_opencode_answers(opencode: Any) -> None:
    assert opencode("hello").strip() == GREETING


def test_opencode_reads_edits_runs_and_finishes(opencode: Any, served: tuple[str, Path]) -> None:
    said = opencode("fix the typo in notes.txt")
    assert "Done: it says hello world now." in said
    assert (served[1] / "notes.txt").read_text() == "hello world\n"
    assert (served[1] / "done.txt").is_file()


@pytest.mark.parametrize("served_small", [8192], indirect=True)
def test_opencode_finishes_its_task_on_a_worker_of_8192_tokens(
    served_small: tuple[str, Path], chat_packages: Path, tmp_path: Path
) -> None:
    """Its first request has 7,500 tokens, so that it needs the context diet."""
    url, folder = served_small
    said = configured(url, folder, chat_packages, tmp_path)("fix the typo in notes.txt")
    assert "Done: it says hello world now." in said
    assert (folder / "notes.txt").read_text() == "hello world\n"
    assert (folder / "done.txt").is_file()
    # One request a turn: none was made to compact the chat, or made again.
    assert count_chats(url) == 4


@pytest.mark.parametrize("served_small", [2048], indirect=True)
def test_opencode_asks_a_model_that_is_too_small_once_and_says_why(
    served_small: tuple[str, Path], chat_packages: Path, tmp_path: Path
) -> None:
    """It compacted its chat and asked again, without end."""
    url, folder = served_small
    with pytest.raises(AssertionError, match="The model is too small for this request"):
        configured(url, folder, chat_packages, tmp_path, "--min-context", "0")(
            "fix the typo in notes.txt"
        )
    assert count_chats(url) == 1


def count_chats(url: str) -> int:
    """The chats that the proxy has answered or refused."""
    lines = requests.get(f"{url}/metrics", timeout=60).text.splitlines()
    chats = [
        line
        for line in lines
        if line.startswith("horde_proxy_requests_total{") and "chat/completions" in line
    ]
    return round(sum(float(line.rpartition(" ")[2]) for line in chats))


def test_openai_for_node_runs_tools_parses_and_streams(tap: RequestTap, chat_scripts: Path) -> None:
    found = json.loads(run(["node", "openai_node.mjs", f"{tap.url}/v1", MODEL], chat_scripts))
    assert found == {
        "asked": ["Oslo"],
        "final": COLD,
        "person": PERSON,
        "streamed": GREETING,
        "finish": "stop",
    }


def test_the_ai_sdk_calls_tools_streams_and_makes_objects(
    tap: RequestTap, chat_scripts: Path
) -> None:
    said = run(["node", "ai_sdk.mjs", f"{tap.url}/v1", MODEL], chat_scripts)
    found = json.loads(said.splitlines()[-1])
    assert found == {
        "asked": ["Oslo"],
        "text": COLD,
        "steps": 2,
        "streamed": GREETING,
        "finish": "stop",
        "object": PERSON,
    }


def test_langchain_binds_tools_and_gives_structures(tap: RequestTap, python: Path) -> None:
    script = SCRIPTS / "langchain_client.py"
    found = json.loads(run([python / "python", script, f"{tap.url}/v1", MODEL], SCRIPTS))
    assert found == {
        "calls": [["get_weather", {"city": "Oslo"}]],
        "by_schema": PERSON,
        "by_call": PERSON,
        "streamed": GREETING,
    }


@pytest.fixture
def llm(tap: RequestTap, python: Path, tmp_path: Path) -> Callable[..., str]:
    base = f"{tap.url}/v1"
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- {{model_id: horde, model_name: {MODEL}, api_base: '{base}', supports_tools: true, "
        f"supports_schema: true, api_key_name: horde}}\n"
        f"- {{model_id: raw, model_name: {MODEL}, api_base: '{base}', completion: true, "
        f"api_key_name: horde}}\n"
    )
    (tmp_path / "keys.json").write_text('{"horde": "none"}')
    return lambda *arguments: run(
        [python / "llm", *arguments], tmp_path, LLM_USER_PATH=str(tmp_path)
    ).strip()


def test_llm_chats_completes_and_uses_schemas_and_tools(llm: Any) -> None:
    assert llm("-m", "horde", "hello") == GREETING
    assert llm("-m", "raw", "Once upon a time") == "Once upon a time"
    assert json.loads(llm("-m", "horde", "--schema", "name, age int", "Invent a person.")) == {
        "name": "Ann",
        "age": 3,
    }
    function = "def get_weather(city: str) -> str:\n    return 'cold in ' + city"
    said = llm("-m", "horde", "--functions", function, "What is the weather in Oslo?")
    assert said == COLD


class Person(pydantic.BaseModel):
    name: str
    age: int


def test_openai_for_python_parses_and_streams_calls(tap: RequestTap) -> None:
    tool = openai.pydantic_function_tool(pydantic.create_model("get_weather", city=(str, ...)))
    with openai.OpenAI(base_url=f"{tap.url}/v1", api_key="none") as client:
        parsed = client.chat.completions.parse(
            model=MODEL,
            messages=[{"role": "user", "content": "Invent a person."}],
            response_format=Person,
        )
        assert parsed.choices[0].message.parsed == Person(name="Ann", age=3)
        with client.chat.completions.stream(
            model=MODEL,
            messages=[{"role": "user", "content": "What is the weather in Oslo?"}],
            tools=[tool],
        ) as stream:
            kinds = {event.type for event in stream}
            [called] = stream.get_final_completion().choices[0].message.tool_calls or []
    assert "tool_calls.function.arguments.done" in kinds
    assert json.loads(called.function.arguments) == {"city": "Oslo"}
